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


def test_what_was_recorded_makes_the_same_tables_and_starts_no_recipe(tmp_path):
    """The record holds no model; blocks that a run makes no table for stay."""
    finished = runs_builder.write_quickstart(tmp_path / "run", 3, npo=(0.02, 0.94))
    pages = [tmp_path / "first.md", tmp_path / "second.md"]
    names = ("models", "targets", "own_words", "gap", "audit")
    for page in pages:
        blocks = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names)
        page.write_text(blocks + "<!-- table: recipes -->\nkept\n<!-- end -->\n")
    record, out = tmp_path / "measured", f"--out={tmp_path / 'out'}"
    flags = (out, "--only=none")
    done = run_command("compare", f"--runs={finished}", *flags, f"--page={pages[0]}", f"--record={record}")
    assert done.returncode == 0, done.stderr
    assert not list(record.rglob("model")) and (record / "seed3" / "eval_npo" / "results.json").is_file()
    done = run_command("compare", f"--runs={record / 'seed3'}", *flags, f"--page={pages[1]}")
    assert done.returncode == 0, done.stderr
    assert pages[0].read_text() == pages[1].read_text() and "\nkept\n" in pages[1].read_text()
    done = run_command("compare", f"--runs={record / 'seed3'}", out, "--only=npo")
    assert done.returncode == 2 and "--only=none" in done.stderr


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
