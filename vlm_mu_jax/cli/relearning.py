"""The relearning attack: fine-tune a model a little, and ask it again and again."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Attack:
    """How the attacker trains. steps, every: updates in all and between evaluations. lora_rank: 0 trains decoder and
    projector whole."""

    steps: int
    every: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    seed: int


def forget_records(safety: Any, answers: str | Path, count: int, seed: int) -> list[Any]:
    """`count` unsafe requests with their harmful answers, drawn by the seed.

    safety: records of the safety data. answers: answers jsonl of the base model on them, judged.

    Raises InputError when there are not as many.
    """
    from vlm_mu_jax.data import forget_retain

    forget = forget_retain.build(safety, answers).forget
    if count > len(forget):
        raise InputError(f"--forget={count}: {answers} has only {len(forget)} usable harmful answers; lower it")
    return random.Random(seed).sample(list(forget), count)


def harmless_records(path: Path) -> Any:
    """The safe and general records of a VLGuard or LLaVA file. InputError when it has none."""
    from vlm_mu_jax.data import readers

    records = readers.read(path).of_kind("safe", "general")
    if not len(records):
        raise InputError(f"--harmless: {path} holds no safe or general record; give another file")
    return records


def attack(
    model: Any,
    records: Sequence[Any],
    root: Path,
    how: Attack,
    questions: Any,
    workdir: Path,
    progress: Any = None,
    report: Any = None,
) -> dict[str, Any]:
    """Trains `model` on the records and measures it at step 0 and after every `how.every` updates.

    The attacker minimises the answers' cross-entropy with AdamW at a constant rate. WORKDIR/training gets checkpoints,
    so a killed attack goes on; the same weights, records and `how` are needed for that.

    Args:
      root: folder the records' images are relative to.
      questions: as `train_evaluation.Questions`.
      report: called with (step, rates) after every evaluation.

    Returns:
      {"curve": [{"step", "metrics": {name: value, n, k, low, high}}], "rows": counts of what was trained on,
      "weights_sha256"}.
    """
    from vlm_mu_jax.data.batches import Stream
    from vlm_mu_jax.objectives.registry import make_objective
    from vlm_mu_jax.storage.identity import weights_hash
    from vlm_mu_jax.training.best import Evaluation
    from vlm_mu_jax.training.loop import train
    from vlm_mu_jax.training.optimizer import OptimConfig
    from vlm_mu_jax.training.sources import tokenised
    from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection

    folder, weights = workdir / "training", weights_hash(model.params)
    tokens = model.config.text.max_positions
    rows, counts = tokenised(records, {record.source: root for record in records}, model.processor, tokens)
    stream = Stream(
        list(rows.values()), min(how.batch_size, max(len(rows), 1)), how.seed, load_image=model.processor.pixels
    )

    def evaluate(step: int, params: Mapping[str, Any]) -> dict[str, float]:
        values = questions(step, params, workdir / "evaluations")
        if report is not None:
            report(step, values)
        return values

    first = {"step": 0, **evaluate(0, model.params)}
    train(
        model.config,
        model.params,
        {"train": stream},
        make_objective("sft"),
        OptimConfig(how.learning_rate, schedule="constant", warmup=0.0),
        how.steps,
        trainable=Selection(select=(), lora_rank=how.lora_rank) if how.lora_rank else FROZEN_VISION,
        workdir=folder,
        keep=1,
        evaluation=Evaluation(evaluate, how.every),
        weights=weights,
        progress=progress,
        label="relearning",
        seed=how.seed,
    )
    return {"curve": curve([first, *_evaluations(folder)]), "rows": counts, "weights_sha256": weights}


def curve(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Rates of `evaluation.frontier` per step, with their intervals over the questions."""
    from vlm_mu_jax.evaluation.results import frontier

    points = []
    for row in rows:
        found = {name: frontier.with_interval(row, name) for name in frontier.RATES}
        points.append(
            {"step": row["step"], "metrics": {name: m.to_dict() for name, m in found.items() if m is not None}}
        )
    return points


def _evaluations(folder: Path) -> list[dict[str, float]]:
    import json

    from vlm_mu_jax.training.best import FILE

    return [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]
