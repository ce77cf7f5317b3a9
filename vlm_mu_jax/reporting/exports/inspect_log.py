"""Evaluated models as logs of inspect-ai: a run is a task, an answer a sample, the judge its scorer.

Source of the format: UKGovernmentBEIS/inspect_ai 0.3.285, inspect_ai/log/_log.py:EvalLog, version 2. The logs open
with `inspect view --log-dir` and `inspect_ai.log.read_eval_log`; inspect itself is not needed to write them.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.reporting.exports.rows import HIDDEN, answer_rows
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.runs import ModelRun
from vlm_mu_jax.reporting.page.browser import primary_judge

TASK = "safety"


def write(content: Content, folder: Path) -> list[Path]:
    """Writes one log per run into `folder`, named as inspect names its own."""
    paths = []
    for run in content.runs:
        log = log_of(content, run)
        when = re.sub(r"[:+]", "-", log["eval"]["created"])
        path = folder / f"{when}_{TASK}_{_name(run.label)}.json"
        with complete_file(path) as partial:
            partial.write_text(json.dumps(log, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def log_of(content: Content, run: ModelRun) -> dict[str, Any]:
    """The log of one run."""
    made = datetime.fromtimestamp((run.folder / "results.json").stat().st_mtime, UTC).isoformat(timespec="seconds")
    rows, judge = answer_rows(content, run), primary_judge(run) or "judge"
    model = f"vlm_mu_jax/{_name(run.label)}"
    samples = [_sample(row, model, judge, epoch) for row, epoch in zip(rows, _epochs(rows), strict=True)]
    metrics = {name: {"name": name, "value": rate.value} for name, rate in run.metrics.items()}
    identity = hashlib.sha256(f"{run.folder}{run.label}{made}".encode()).hexdigest()[:22]
    facts = dict(content.provenance).get(run.label, {})
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": made,
            "task": TASK,
            "task_id": identity,
            "task_version": 0,
            "dataset": {"name": TASK, "samples": len(samples), "sample_ids": [one["id"] for one in samples]},
            "model": model,
            "config": {"epochs": 1},
            "packages": {},
            "metadata": {"kind": run.kind, "seed": run.seed, "provenance": facts},
            "scorers": [{"name": judge}],
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [{"name": judge, "scorer": judge, "params": {}, "metrics": metrics}],
        },
        "stats": {"started_at": made, "completed_at": made, "model_usage": {}},
        "samples": samples,
    }


def _sample(row: dict[str, Any], model: str, judge: str, epoch: int) -> dict[str, Any]:
    question, answer = (HIDDEN if row[name] is None else row[name] for name in ("question", "answer"))
    about = ("set", "attack", "position", "word", "shot", "turn", "image", "image_id", "prompt_sha", "tokens")
    message = {"role": "assistant", "content": answer, "source": "generate"}
    scores = {}
    if row["label"] is not None:
        scores[judge] = {"value": row["label"], "answer": answer, "metadata": {"probability": row["probability"]}}
    return {
        "id": f"{row['set']}/{row['id']}",
        "epoch": epoch,
        "input": question,
        "target": "",
        "messages": [{"role": "user", "content": question, "source": "input"}, message],
        "output": {"model": model, "choices": [{"message": message, "stop_reason": "stop"}]},
        "scores": scores,
        "metadata": {name: row[name] for name in about if row[name] is not None},
    }


def _epochs(rows: list[dict[str, Any]]) -> list[int]:
    """Inspect tells samples of one id apart by the epoch: here, the how-manieth answer to the question."""
    seen: dict[tuple, int] = {}
    epochs = []
    for row in rows:
        key = (row["set"], row["id"])
        seen[key] = seen.get(key, 0) + 1
        epochs.append(seen[key])
    return epochs


def _name(label: str) -> str:
    return re.sub(r"[^\w.-]+", "-", label).strip("-") or "model"
