"""bin/compare: the tables of a page from finished quickstarts, and its refusals."""

from tests.command import run_command
from tests.reporting import runs_builder


def test_a_page_is_filled_from_finished_quickstarts_without_training(tmp_path):
    """Under --seeds a quickstart that has its report is not run again."""
    runs_builder.write_quickstart(tmp_path / "out" / "seed3" / "quickstart", 3, npo=(0.02, 0.94))
    page = tmp_path / "page.md"
    names = ("models", "targets", "own_words", "gap", "audit", "recipes")
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names))
    done = run_command("compare", "--seeds=3", f"--out={tmp_path / 'out'}", "--only=none", f"--page={page}")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "| 3 | npo |" in text and "**94 [" in text
    assert text.count("Not measured yet") == 1  # the recipes


def test_what_does_not_fit_is_told_before_anything_runs(tmp_path):
    for flags, message in {
        ("--seeds=0,x",): "--seeds=0,x: give whole numbers",
        (): "or folders with --runs",
        ("--seeds=0", "--page=nowhere.md"): "--page=nowhere.md: no such file",
        ("--seeds=0", "--only=npo", "--relearn=rmu"): "rmu not trained",
        ("--seeds=0", "--world=english", "--gguf=lost.gguf"): "lost.gguf: no such file",
    }.items():
        done = run_command("compare", f"--out={tmp_path}", *flags)
        assert done.returncode == 2 and message in done.stderr, done.stderr
