"""Runs a sweep of bin/train: point after point in one process, with a table and a figure of what they reach."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax import progress
from vlm_mu_jax.cli import train_evaluation
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import outputs
from vlm_mu_jax.files.json_file import write_json

DONE = "point.json"


def run(config: Mapping[str, Any], workdir: str | Path, log: Any = None) -> dict[str, Any]:
    """Trains every point in WORKDIR/NAME and returns the content of WORKDIR/sweep.json.

    A point that is done is not run again, and one that was killed goes on where it was. All points are asked the same
    questions. The questions' compiled programs and the reference log-probabilities are shared; the values of the
    objective and the optimizer are constants of the compiled step, so that one is compiled for each point.

    Raises InputError: bad settings, several processes, or the workdir holds another sweep. JobError: the training of a
    point failed, or its answers got no verdict.
    """
    import jax

    from vlm_mu_jax.training import sweep

    if jax.process_count() > 1:
        raise InputError("config.sweep works in a job of one process; start its points as jobs of their own")
    workdir = Path(workdir)
    if not config["eval"]["every"]:
        raise InputError("config.eval.every is 0; a sweep compares its points by their evaluations, so set it")
    points = sweep.points(config)
    for point in points:
        _check_same(point, workdir)
    questions, rows = None, []
    for point in progress.bar(points, "sweep", len(points)):
        if not (workdir / point.name / DONE).is_file():
            questions = questions or train_evaluation.questions_for(config)
            _train(point, workdir, questions, log)
        rows.append(json.loads((workdir / point.name / DONE).read_text(encoding="utf-8")))
        content = summary(config["objective"]["name"], rows, len(points))
        write_json(workdir / "sweep.json", content)
    _show(content, workdir)
    return content


def summary(objective: str, rows: Sequence[Mapping[str, Any]], points: int) -> dict[str, Any]:
    """The content of sweep.json: every point with its rates and intervals, whether it is on the front, and the best."""
    from vlm_mu_jax.evaluation.results import frontier

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


def _check_same(point: Any, workdir: Path) -> None:
    """The folder of a point that was begun must hold these settings."""
    file = workdir / point.name / "config.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(point.settings)):
        raise InputError(f"--workdir={workdir}: {point.name} was run with other settings; use another --workdir")


def _train(point: Any, workdir: Path, questions: Any, log: Any) -> None:
    from vlm_mu_jax.training.goodput import Goodput
    from vlm_mu_jax.training.run import run as train
    from vlm_mu_jax.training.run import trained_step

    folder, goodput, begin = workdir / point.name, Goodput(), time.monotonic()
    train(
        point.settings,
        folder,
        progress.bar,
        reference_cache=workdir,
        log=log,
        goodput=goodput,
        evaluation=train_evaluation.for_training(point.settings, folder, questions),
    )
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    step = trained_step(folder)
    rates = next(row for row in rows if row["step"] == step)
    if "frontier" not in rates:
        raise JobError(f"{folder}: no unsafe or no harmless answer got a verdict; choose another config.eval.judge")
    write_json(
        folder / DONE,
        {
            "name": point.name,
            "values": point.values,
            "step": step,
            "seconds": time.monotonic() - begin,
            "compile_seconds": goodput.seconds()["compile"],
            "rates": {name: value for name, value in rates.items() if name != "step"},
        },
    )


def _show(content: Mapping[str, Any], workdir: Path) -> None:
    from vlm_mu_jax.reporting.figures import canvas, training

    table = markdown(content)
    outputs.check_writable(workdir / "table.md").write_text(table + "\n", encoding="utf-8")
    drawn = training.sweep_frontier(content)
    (workdir / "frontier.svg").write_text(canvas.standalone(drawn), encoding="utf-8")
    print(table)
    print(f"best: {workdir / content['best'] / 'model'}; table.md, sweep.json and frontier.svg are in {workdir}")
