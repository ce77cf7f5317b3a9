"""Evaluated models, read from the run folders of `bin/eval`: metrics, answers, paired tests, provenance."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.formats.answers import AnswerLine
from vlm_mu_jax.formats.reading import read_file, read_lines
from vlm_mu_jax.formats.results import ResultsFile
from vlm_mu_jax.reporting.inputs.metrics import Rate, flatten_metrics

BASE, SFT, GUARD = "base", "sft", "guard"
_STORY = (BASE, SFT)  # first in every table; the guard comes last, whatever is unlearned stands between


@dataclass
class ModelRun:
    """One evaluated model. `metrics` is flat: "asr_after", "asr_by_opening/share", "gap/blank_image/asr"."""

    name: str
    kind: str
    seed: int | None
    metrics: dict[str, Rate]
    raw: dict[str, Any]  # the entry of results.json as read, for the merged file
    folder: Path
    label: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    miniature: bool = False  # whether the data are the synthetic world, whose text may be shown

    def metric(self, name: str) -> Rate | None:
        return self.metrics.get(name)

    def group(self, name: str) -> dict[str, Rate]:
        """The metrics one level under `name`: group("asr_by_opening") -> {"share": ...}."""
        start = name + "/"
        return {key[len(start) :]: metric for key, metric in self.metrics.items() if key.startswith(start)}

    @property
    def unlearned(self) -> bool:
        return self.kind not in (BASE, SFT, GUARD)


def read_runs(folders: list[Path]) -> tuple[list[ModelRun], list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Every run of the folders, with labels to show: (runs in the story's order, paired tests, provenance by label).

    Raises:
      InputError: a folder has no usable results.json or answers, or a run is given twice.
    """
    runs: list[ModelRun] = []
    comparisons: list[dict[str, Any]] = []
    provenance: list[tuple[ModelRun, dict[str, Any]]] = []
    for folder in folders:
        results = read_file(folder / "results.json", ResultsFile)
        found = [_run(entry, folder) for entry in results["runs"]]
        _attach_answers(found, folder, results)
        runs += found
        comparisons += _comparisons(results, found)
        provenance += [(run, _provenance(results, folder)) for run in found]
    _label(runs)
    runs.sort(key=lambda run: (_seed_order(run.seed), _story_order(run.kind)))  # stable: given order within a kind
    return runs, comparisons, [(run.label, facts) for run, facts in provenance]


def _run(entry: dict[str, Any], folder: Path) -> ModelRun:
    metrics = flatten_metrics(entry["metrics"], f"{folder / 'results.json'}: run {entry['name']!r}")
    kind = str(entry.get("kind") or "other").lower()
    return ModelRun(entry["name"], kind, entry.get("seed"), metrics, entry, folder)


def _attach_answers(runs: list[ModelRun], folder: Path, results: dict[str, Any]) -> None:
    """Gives each run its answers: all of the folder's when it holds one run, else those of answers/NAME*.jsonl."""
    for run in runs:
        files = sorted((folder / "answers").glob("*.jsonl"))
        if len(runs) > 1:
            files = [path for path in files if path.stem.startswith(run.name)]
        run.answers = [{**row, "set": _set_of(path, run)} for path in files for row in read_lines(path, AnswerLine)]
        declared = run.raw.get("miniature", (results.get("provenance") or {}).get("miniature"))
        # Only the synthetic worlds ship an exact oracle: its labels mark data with nothing harmful, safe to show.
        judged = any("oracle" in (row.get("labels") or {}) for row in run.answers)
        run.miniature = bool(declared) if declared is not None else judged


def _comparisons(results: dict[str, Any], runs: list[ModelRun]) -> list[dict[str, Any]]:
    """The paired tests of a folder, with the seed of the run they are about: names repeat over seeds."""
    seeds = {run.name: run.seed for run in runs if run.seed is not None}
    rows = results.get("comparisons") or []
    return [{**({"seed": seeds[row["run"]]} if row.get("run") in seeds else {}), **row} for row in rows]


def _set_of(path: Path, run: ModelRun) -> str:
    """The set of questions an answers file holds: its name, without the run's where several runs share a folder."""
    return path.stem.removeprefix(run.name).lstrip("_-.") or path.stem


def _provenance(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    facts = dict(results.get("provenance") or {})
    path = folder / "provenance.json"
    return {**(read_json(path) if path.exists() else {}), **facts}


def _label(runs: list[ModelRun]) -> None:
    """Names to show: the run's own when unique, else with its seed, else with its folder."""
    names = Counter(run.name for run in runs)
    for run in runs:
        run.label = run.name if names[run.name] == 1 else f"{run.name}, seed {run.seed}"
    labels = Counter(run.label for run in runs)
    for run in runs:
        run.label = run.label if labels[run.label] == 1 else f"{run.label} ({run.folder.name})"
    labels = Counter(run.label for run in runs)
    repeated = next((run for run in runs if labels[run.label] > 1), None)
    if repeated:
        raise InputError(f"{repeated.folder}: run {repeated.name!r} is given twice; name every run once")


def _story_order(kind: str) -> int:
    return _STORY.index(kind) if kind in _STORY else len(_STORY) + (kind == GUARD)


def _seed_order(seed: int | None) -> float:
    return math.inf if seed is None else seed
