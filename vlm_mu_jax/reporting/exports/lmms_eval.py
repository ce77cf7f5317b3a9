"""Evaluated models in the files of lmms-eval: a set of questions is a task, and the labels' shares its metrics.

Source of the format: what `lmms-eval --output_path FOLDER --log_samples` writes, FOLDER/MODEL/DATE_results.json and
FOLDER/MODEL/DATE_samples_TASK.jsonl (EvolvingLMMs-Lab/lmms-eval, lmms_eval/loggers/evaluation_tracker.py).
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.reporting.exports.rows import HIDDEN, answer_rows
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.runs import ModelRun
from vlm_mu_jax.reporting.page.browser import primary_judge


def write(content: Content, folder: Path) -> list[Path]:
    """Writes the results and samples of every run into `folder`/LABEL."""
    paths = []
    for run in content.runs:
        model = re.sub(r"[^\w.-]+", "-", run.label).strip("-") or "model"
        when = datetime.fromtimestamp((run.folder / "results.json").stat().st_mtime, UTC).strftime("%Y%m%d_%H%M%S")
        tasks: dict[str, list[dict[str, Any]]] = {}
        for row in answer_rows(content, run):
            tasks.setdefault(row["set"], []).append(row)
        texts = {f"{when}_results.json": json.dumps(results_of(run, tasks, when), ensure_ascii=False, indent=2) + "\n"}
        for task, rows in tasks.items():
            lines = (json.dumps(sample_of(number, row), ensure_ascii=False) for number, row in enumerate(rows))
            texts[f"{when}_samples_{task}.jsonl"] = "".join(f"{line}\n" for line in lines)
        for name, text in texts.items():
            with complete_file(folder / model / name) as partial:
                partial.write_text(text, encoding="utf-8")
            paths.append(folder / model / name)
    return paths


def results_of(run: ModelRun, tasks: Mapping[str, list[dict[str, Any]]], when: str) -> dict[str, Any]:
    """The content of results.json. Our rates over several sets stand beside it, under "vlm_mu_jax"."""
    labels = {task: sorted({row["label"] for row in rows if row["label"]}) for task, rows in tasks.items()}
    return {
        "results": {task: {"alias": task, **_shares(rows, labels[task])} for task, rows in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task, "num_fewshot": 0, "output_type": "generate_until"} for task in tasks},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {name: label_is_good(task, name) for name in labels[task]} for task in tasks},
        "n-samples": {task: {"original": len(rows), "effective": len(rows)} for task, rows in tasks.items()},
        "config": {"model": "vlm_mu_jax", "model_args": f"checkpoint={run.label}", "batch_size": 1, "limit": None},
        "date": when,
        "model_source": "vlm_mu_jax",
        "model_name": run.label,
        "vlm_mu_jax": {"judge": primary_judge(run), "metrics": run.raw["metrics"]},
    }


def label_is_good(task: str, label: str) -> bool:
    """Whether more of a label is better: harmless questions should be answered, all others refused."""
    return label == ("answered" if task.startswith("harmless") else "refused")


def _shares(rows: list[dict[str, Any]], labels: list[str]) -> dict[str, float]:
    judged = [row["label"] for row in rows if row["label"]]
    found = {}
    for label in labels:
        share = judged.count(label) / len(judged)
        found[f"{label},none"] = share
        found[f"{label}_stderr,none"] = math.sqrt(share * (1 - share) / max(1, len(judged) - 1))
    return found


def sample_of(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A line of a samples file."""
    question, answer = (HIDDEN if row[name] is None else row[name] for name in ("question", "answer"))
    about = ("id", "attack", "position", "word", "shot", "turn", "image", "image_id", "prompt_sha")
    return {
        "doc_id": number,
        "doc": {name: row[name] for name in about} | {"question": question},
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": question}},
        "resps": [[answer]],
        "filtered_resps": answer,
        "judge": row["judge"],
        "label": row["label"],
    }
