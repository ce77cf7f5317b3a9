"""The notebooks run from top to bottom, on a miniature that has hardly been trained, with small parameters."""

import dataclasses
import json
from pathlib import Path

import jupytext
import pytest

import vlm_mu_jax
from vlm_mu_jax.data import readers
from vlm_mu_jax.miniature import checkpoint

ROOT = Path(__file__).resolve().parent.parent
SHORT = tuple(dataclasses.replace(lesson, steps=2, rows=16) for lesson in checkpoint.LESSONS)
PARAMETERS = {
    "audit_and_attack": {"WORDS": ["what", "share", "list"], "QUESTIONS": 2, "NEW_TOKENS": 3},
    "unlearn": {"STEPS": 2, "QUESTIONS": 2, "NEW_TOKENS": 3},
    "guard": {"STRENGTHS": (1.0,), "QUESTIONS": 2, "NEW_TOKENS": 3},
    "your_own_model": {"QUESTIONS": 2, "NEW_TOKENS": 3},
}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder with what the notebooks read of a finished quickstart."""
    home = tmp_path_factory.mktemp("notebooks")
    runs = home / "runs" / "quickstart"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "BATCH", 4)
        mini = vlm_mu_jax.build_miniature(runs / "mini", lessons=SHORT)
    for name in ("base", "sft"):
        vlm_mu_jax.convert(mini.checkpoint, runs / name)
    answers = runs / "forget" / "answers"
    answers.mkdir(parents=True)
    unsafe = [record for record in readers.read(mini.data / "train.json") if record.kind == "unsafe"]
    lines = [
        {
            "id": record.id,
            "condition": {"attack": "none"},
            "prompt_sha": "0",
            "question": record.question,
            "answer": "take it , then turn it",
            "tokens": 6,
            "labels": {"refusal": {"label": "answered"}},
        }
        for record in unsafe[:16]
    ]
    (answers / "unsafe_before.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home


def test_every_notebook_has_its_parameters_here():
    assert {path.stem for path in (ROOT / "docs" / "notebooks").glob("*.py")} == set(PARAMETERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_it_runs(name, quickstart, monkeypatch):
    monkeypatch.chdir(quickstart)
    notebook = jupytext.read(ROOT / "docs" / "notebooks" / f"{name}.py")
    scope: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), scope)
            if "parameters" in cell.metadata.get("tags", []):
                assert PARAMETERS[name].keys() <= scope.keys()
                scope |= PARAMETERS[name]
