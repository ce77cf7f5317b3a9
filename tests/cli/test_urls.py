"""A URL where none is handled, and any other bad argument: one line, and nothing is made."""

import pytest

from tests.command import run_command
from vlm_mu_jax.cli import urls
from vlm_mu_jax.cli.main import COMMANDS

REFUSED = {
    "train": ["train", "--config=miniature_unlearn:npo", "--workdir=ftp://bucket/run"],
    "a key of the config": [
        "train",
        "--config=miniature_unlearn:npo",
        "--workdir=new/run",
        "--config.model.init=az://b",
    ],
    "eval": ["eval", "--checkpoint=base", "--data=data", "--workdir=ftp:/bucket/run"],
    "report": ["report", "ftp://bucket/run", "--out=new/report.html"],
    "serve": ["serve", "--checkpoint=base=ftp://bucket/base"],
    "curate, which links to images": ["curate", "--safety=s3://bucket/train.json", "--out=new/set"],
    "quickstart": ["quickstart", "--out=gs://bucket/run"],
    "miniature": ["miniature", "--out=ftp://bucket/mini"],
    "convert_hf": ["convert_hf", "--source=new", "--out=ftp://bucket/base"],
    "audit": ["audit", "--data=ftp://bucket/data", "--out=new/audit.json"],
    "plan": ["plan", "--config=miniature_unlearn:npo", "--topology=v5e:2x2", "--config.model.init=ftp://b/base"],
    "compare": ["compare", "--out=ftp://bucket/compared"],
    "guard": ["guard", "extract", "--checkpoint=base", "--anchors=anchors.json", "--out=ftp://bucket/guard"],
    "holds": ["holds", "--checkpoint=base", "--data=data", "--workdir=ftp://bucket/holds"],
    "judge": ["judge", "--answers=ftp://bucket/answers.jsonl", "--out=new/judged"],
    "generate": ["generate", "--checkpoint=base", "--data=ftp://bucket/test.json", "--out=new/answers.jsonl"],
    "bench": ["bench", "generate", "--workdir=ftp://bucket/bench"],
}
WRONG = {
    "train": ["train", "--config=miniature_unlearn:npo", "--workdir=new/run", "--config.model.init=missing"],
    "eval": ["eval", "--checkpoint=missing", "--data=data", "--workdir=new/run"],
    "relearn": ["relearn", "--checkpoint=missing", "--data=data", "--workdir=new/run", "--harmless=train.json"],
    "defences": ["defences", "--checkpoint=missing", "--data=data", "--workdir=new/run"],
    "attack": ["attack", "--checkpoint=missing", "--data=data", "--out=new/attack.json"],
    "report": ["report", "missing", "--out=new/report.html", "--figures=new/figures"],
    "curate": ["curate", "--safety=missing.json", "--out=new/set"],
}


def test_every_command_is_tried():
    assert {words[0] for table in (REFUSED, WRONG) for words in table.values()} == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [*((a, "is not handled") for a in REFUSED.values()), *((a, "missing") for a in WRONG.values())],
)
def test_a_refused_command_makes_nothing(arguments, what, tmp_path):
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and what in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("~/run", "/home/ada/run"),
        ("npo=~/run", "npo=/home/ada/run"),
        (["base", "~/base"], ["base", "/home/ada/base"]),
        ("run~/of", "run~/of"),
        ("~", "~"),
    ],
)
def test_the_home_folder_is_written_out_in_every_flag(value, expected, monkeypatch):
    """A run then has one folder, whichever function reads the flag; shells leave the `~` of --workdir=~/run alone."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert urls._changed("workdir", value, None) == expected
