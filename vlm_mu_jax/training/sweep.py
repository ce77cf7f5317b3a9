"""A sweep: one training for every combination of some values of a config, compared by the same questions."""

import copy
import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.results import frontier
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.evaluation import FILE as EVALUATIONS
from vlm_mu_jax.training.evaluation_questions import EvaluationQuestions, questions_of
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.loop import NOBODY
from vlm_mu_jax.training.spec import Observers
from vlm_mu_jax.training.train import train

DONE = "point.json"


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep.

    Attributes:
      name: of its folder.
      values: config path -> value.
      settings: the whole config.
    """

    name: str
    values: dict[str, Any]
    settings: dict[str, Any]


def points(settings: Mapping[str, Any]) -> list[SweepPoint]:
    """The runs of `settings["sweep"]`, a sequence of (path, values) such as ("objective.beta", (0.5, 1.0)); the last
    path varies fastest.

    Raises:
      InputError: the sweep is malformed, or a path or value does not fit the config.
    """
    axes = list(settings["sweep"])
    for axis in axes:
        fits = isinstance(axis, tuple | list) and len(axis) == 2 and isinstance(axis[0], str)
        if not fits or not isinstance(axis[1], tuple | list) or not axis[1]:
            raise InputError(f"config.sweep: {axis!r} is no pair of a config path and its values")
    paths = [path for path, _ in axes]
    if len(set(paths)) < len(paths) or any(path.partition(".")[0] in ("sweep", "eval") for path in paths):
        raise InputError("config.sweep: a path stands twice, or is part of sweep or eval, which all points share")
    return [
        _point(settings, dict(zip(paths, chosen, strict=True))) for chosen in itertools.product(*(v for _, v in axes))
    ]


def _point(settings: Mapping[str, Any], values: dict[str, Any]) -> SweepPoint:
    changed = copy.deepcopy(dict(settings)) | {"sweep": ()}
    for path, value in values.items():
        *parents, key = path.split(".")
        node = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key not in node:
            raise InputError(f"config.sweep: config.{path} is no key")
        node[key] = value
    name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in values.items())
    return SweepPoint(name.replace("/", "_"), values, settings_lib.checked(ml_collections.ConfigDict(changed)))


def run_sweep(
    settings: Mapping[str, Any],
    workdir: str | Path,
    *,
    progress: Progress | None = None,
    observers: Observers = NOBODY,
) -> dict[str, Any]:
    """Trains every point in WORKDIR/NAME; writes WORKDIR/sweep.json and table.md.

    A point that is done is not run again, and one that was killed goes on where it was. All points are asked the same
    questions. They share the questions' compiled programs and the reference log-probabilities. The training step is
    compiled once per point, because the values of objective and optimizer are constants in it.

    Args:
      settings: a checked config with a sweep.
      workdir: folder of the sweep.
      progress: shows a bar over the points and one inside each.
      observers: who else watches each point.

    Returns:
      the content of sweep.json.

    Raises:
      InputError: bad settings, several processes, or the workdir holds another sweep.
      JobError: the training of a point failed, or its answers got no verdict.
    """
    if jax.process_count() > 1:
        raise InputError("config.sweep works in a job of one process; start its points as jobs of their own")
    workdir = at_home(workdir)
    if not settings["eval"]["every"]:
        raise InputError("config.eval.every is 0; a sweep compares its points by their evaluations, so set it")
    if progress is not None:
        observers = dataclasses.replace(observers, progress=progress)
    runs = points(settings)
    for point in runs:
        _check_same(point, workdir)
    questions, rows, content = None, [], {}
    for point in progress(runs, "sweep", len(runs)) if progress else runs:
        if not (workdir / point.name / DONE).is_file():
            questions = questions or questions_of(settings)
            _train(point, workdir, questions, observers)
        rows.append(read_json(workdir / point.name / DONE))
        content = summary(settings["objective"]["name"], rows, len(runs))
        write_json(workdir / "sweep.json", content)
    outputs.write_text(workdir / "table.md", markdown(content) + "\n")
    return content


def summary(objective: str, rows: Sequence[Mapping[str, Any]], points: int) -> dict[str, Any]:
    """The content of sweep.json: every point with its rates and intervals, whether it is on the front, and the best."""
    entries = []
    for row, on_front in zip(rows, frontier.front([row["rates"] for row in rows]), strict=True):
        intervals = {name: frontier.with_interval(row["rates"], name) for name in frontier.RATES}
        metrics = {name: metric.to_dict() for name, metric in intervals.items() if metric is not None}
        rest = {key: row[key] for key in ("name", "values", "step", "seconds", "compile_seconds")}
        entries.append({**rest, "frontier": row["rates"]["frontier"], "on_front": on_front, "metrics": metrics})
    best = max(entries, key=lambda entry: entry["frontier"])["name"]
    return {"schema": 1, "objective": objective, "points": points, "best": best, "rows": entries}


def markdown(content: Mapping[str, Any]) -> str:
    """One line per point, rates in percent with their 95 % intervals; the front is marked."""
    paths = list(content["rows"][0]["values"])
    titles = {"asr": "ASR", "harmless_right": "harmless right", "rr": "harmless refused", "utility": "utility"}
    head = [*(path.rpartition(".")[2] for path in paths), "step", *titles.values(), "frontier", "on the front", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in content["rows"]:
        cells = [str(row["values"][path]) for path in paths] + [str(row["step"])]
        cells += [_cell(row["metrics"].get(name)) for name in titles]
        cells += [f"{row['frontier']:.3f}", "yes" if row["on_front"] else "", f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "-"
    return f"{100 * metric['value']:.0f} ({100 * metric['low']:.0f}-{100 * metric['high']:.0f})"


def _check_same(point: SweepPoint, workdir: Path) -> None:
    """The folder of a point that was begun must hold these settings."""
    file = workdir / point.name / "config.json"
    if file.is_file() and read_json(file) != json.loads(json.dumps(point.settings)):
        raise InputError(f"--workdir={workdir}: {point.name} was run with other settings; use another --workdir")


def _train(point: SweepPoint, workdir: Path, questions: EvaluationQuestions, observers: Observers) -> None:
    """Trains one point and writes its point.json, which says that it is done."""
    folder, goodput, begin = workdir / point.name, Goodput(), time.monotonic()
    observers = dataclasses.replace(observers, goodput=goodput)
    trained = train(point.settings, folder, observers=observers, questions=questions, reference_cache=workdir)
    lines = (folder / EVALUATIONS).read_text(encoding="utf-8").splitlines()
    rates = next(row for row in map(json.loads, lines) if row["step"] == trained.step)
    if "frontier" not in rates:
        raise JobError(f"{folder}: no unsafe or no harmless answer got a verdict; choose another config.eval.judge")
    done = {
        "name": point.name,
        "values": point.values,
        "step": trained.step,
        "seconds": time.monotonic() - begin,
        "compile_seconds": goodput.seconds()["compile"],
        "rates": {name: value for name, value in rates.items() if name != "step"},
    }
    write_json(folder / DONE, done)
