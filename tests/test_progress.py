"""Progress: items pass through unchanged, a log file gets plain lines, a terminal a bar that is always taken down."""

import io

from vlm_mu_jax import progress


def test_items_pass_through_and_quick_loops_stay_silent(capsys):
    assert list(progress.bar(range(5), "quick")) == [0, 1, 2, 3, 4]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_log_file_gets_a_line_every_few_seconds(capsys, monkeypatch):
    clock = iter(range(0, 1000, 2))  # two seconds pass at every look at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(progress.bar((x for x in "abcdef"), "letters", total=6)) == list("abcdef")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "letters: 3/6 (50 %) after 6.0 s, about 6.0 s left"
    assert lines[-1].startswith("letters: 6 in ")
    assert len(lines) < 6


def test_the_clock_reads_well():
    assert progress._clock(3.21) == "3.2 s"
    assert progress._clock(125) == "2 min 05 s"


def test_a_terminal_gets_one_bar_for_nested_loops_and_breaks_clean_up(monkeypatch):
    from rich.console import Console

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "_interactive", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    for _ in progress.bar(range(2), "outer"):
        assert list(progress.bar(range(3), "inner")) == [0, 1, 2]
    for _ in progress.bar(range(2), "broken off"):
        break
    assert progress._live is None
    for label in ("outer", "inner", "broken off"):
        assert label in written.getvalue()
