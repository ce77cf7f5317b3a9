"""The folder of an evaluation: what its answers were made with, and its results.

`config.json` (settings), `provenance.json`, `answers/SET.jsonl` and `results.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.suite_answers import ANSWERS
from vlm_mu_jax.files.json_file import read_json, write_json

# What an answer depends on besides its own prompt and image: a workdir holds answers of one such setting only.
_FIXED = {
    "weights_sha256": "model",
    "guard_sha256": "guard",
    "max_new_tokens": "--max_new_tokens",
    "defence": "defence",
    "defence_prompts": "wording of the defence",
}


def open_workdir(workdir: str | Path, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Writes `config.json` and `provenance.json`.

    InputError when the folder holds answers made with other weights, another guard or another token limit.
    """
    path = Path(workdir) / "config.json"
    if path.exists() and any((Path(workdir) / ANSWERS).glob("*.jsonl")):
        old = read_json(path)
        for name, word in _FIXED.items():
            if old.get(name) != settings.get(name):
                raise InputError(f"--workdir={workdir}: its answers were made with another {word}; use another folder")
    write_json(path, settings)
    write_json(path.with_name("provenance.json"), provenance)


def read_workdir(workdir: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and provenance that `open_workdir` wrote. InputError when the folder has none."""
    return read_json(Path(workdir) / "config.json"), read_json(Path(workdir) / "provenance.json")


def write_results(workdir: str | Path, content: Mapping[str, Any]) -> None:
    """Writes `results.json`."""
    write_json(Path(workdir) / "results.json", content)
