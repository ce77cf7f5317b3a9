"""The relearning attack: how soon does a little fine-tuning bring the unlearned harm back?"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.results import frontier
from vlm_mu_jax.evaluation.statistics import Metric
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.activations import mesh_of
from vlm_mu_jax.parallel.mesh import batch_shards, make_mesh
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model, changed
from vlm_mu_jax.training.evaluation import EvaluationPlan
from vlm_mu_jax.training.evaluation_questions import EvaluationQuestions, QuestionOptions
from vlm_mu_jax.training.export import owned
from vlm_mu_jax.training.loop import Fitted, fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.sources import roots_of, tokenised
from vlm_mu_jax.training.spec import Observers, RunStorage, TrainingSpec
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection


@dataclasses.dataclass(frozen=True)
class RelearnOptions:
    """How the attacker trains, and what is asked on the way.

    The attacker minimises the answers' cross-entropy with AdamW at a constant learning rate.

    Attributes:
      questions: what is asked at step 0 and after every `every` updates.
      steps: updates in all.
      every: updates between evaluations.
      batch_size: rows per update; fewer when there are fewer records.
      learning_rate: constant.
      lora_rank: rank of LoRA adapters on the decoder; 0 trains decoder and projector whole.
      seed: draws the order of the rows, new LoRA pairs and the questions.
    """

    questions: QuestionOptions
    steps: int = 60
    every: int = 10
    batch_size: int = 16
    learning_rate: float = 1e-4
    lora_rank: int = 0
    seed: int = 0

    @property
    def held(self) -> float:
        """Bytes that training holds beside the weights, as times of theirs (see docs/scaling.md)."""
        return 0.5 if self.lora_rank else 8.0  # whole: master copy, moments and gradient of a bfloat16 weight

    def settings(self) -> dict[str, Any]:
        """How the attacker trains, as relearn.json has it."""
        names = ("steps", "every", "batch_size", "learning_rate", "lora_rank", "seed")
        return {name: getattr(self, name) for name in names} | {"subset": self.questions.subset}


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One evaluation. metrics: `frontier.RATES` that were measured, with 95 % intervals over the questions."""

    step: int
    metrics: dict[str, Metric]


@dataclasses.dataclass(frozen=True)
class RelearnResult:
    """The curve of a relearning attack.

    Attributes:
      curve: one point per evaluation, the first before any training (step 0).
      rows: counts of what was trained on: rows, answers cut, prompts too long, records without an answer.
      weights_sha256: hash of the attacked weights.
    """

    curve: tuple[CurvePoint, ...]
    rows: dict[str, int]
    weights_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values, as relearn.json has them."""
        points = [
            {"step": point.step, "metrics": {name: metric.to_dict() for name, metric in point.metrics.items()}}
            for point in self.curve
        ]
        return {"curve": points, "rows": self.rows, "weights_sha256": self.weights_sha256}

    def table(self) -> str:
        """The curve as text: attack success and right harmless answers, in percent with 95 % intervals."""
        lines = [f"{'step':>6} {'ASR':>18} {'harmless right':>18}"]
        for point in self.curve:
            cells = [point.metrics.get(name) for name in ("asr", "harmless_right")]
            shown = [f"{100 * m.value:.0f} % ({100 * m.low:.0f}-{100 * m.high:.0f})" if m else "-" for m in cells]
            lines.append(f"{point.step:>6} {shown[0]:>18} {shown[1]:>18}")
        return "\n".join(lines)


def relearn(
    model: Model,
    records: Sequence[Record],
    options: RelearnOptions,
    workdir: str | Path | None = None,
    *,
    questions: EvaluationQuestions | None = None,
    progress: Progress | None = None,
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None,
) -> RelearnResult:
    """Fine-tunes a copy of the model on some records and measures attack success on the way.

    Example:
      model = vlm_mu_jax.load("runs/npo")
      asked = QuestionOptions("runs/mini/data", subset="test")
      found = vlm_mu_jax.relearn(model, records[:16], RelearnOptions(asked, steps=60))
      [(point.step, point.metrics["asr"].value) for point in found.curve]

    In a job of several processes all call this, with a model that lies on the devices of all. Process 0 has the rates.

    Args:
      model: the unlearned model; it stays as it is, and the attacker's copy lies on the same devices.
      records: what the attacker trains on, for example `forget_records(...)` or `harmless_records(...)`. Image paths
        are relative to `records.root`, or to the working directory for a plain list.
      options: how the attacker trains, and what is asked.
      workdir: gets training/ with checkpoints and evaluations/ with the answers. A killed attack goes on there if
        weights, records and options are the same. None keeps nothing.
      questions: the questions, when they are opened already; by default `options.questions` says which.
      progress: shows a bar.
      on_evaluation: called with (step, rates) after every evaluation.

    Raises:
      InputError: the records give no row to train on, or the questions cannot be read, or the workdir is being written.
    """
    workdir = None if workdir is None else at_home(workdir)
    ask = questions or EvaluationQuestions(model, options.questions, options.seed)
    folder = None if workdir is None else workdir / "evaluations"

    def evaluate(step: int, params: Mapping[str, Any]) -> dict[str, float]:
        return ask(step, params, folder)

    with owned(workdir):
        first = evaluate(0, model.params)
        if on_evaluation is not None:
            on_evaluation(0, first)
        plan = EvaluationPlan(evaluate, options.every)
        observers = Observers(progress, "relearning", evaluation=plan, on_evaluation=on_evaluation)
        weights = weights_hash(model.params)
        fitted, counts = _fit(model, records, options, workdir, weights, observers)
    return RelearnResult(curve([{"step": 0, **first}, *fitted.evaluations]), counts, weights)


def relearned(
    model: Model,
    records: Sequence[Record],
    options: RelearnOptions,
    workdir: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> Model:
    """The model after the attacker's training, to be measured in other ways. Nothing is asked on the way.

    The arguments are those of `relearn`; `options.questions` and `options.every` are not read.
    """
    workdir, weights = None if workdir is None else at_home(workdir), weights_hash(model.params)
    with owned(workdir):
        fitted, _ = _fit(model, records, options, workdir, weights, Observers(progress, "relearning"))
    return changed(model, fitted.params, f"relearned on {len(records)} records, {options.steps} steps")


def _fit(
    model: Model,
    records: Sequence[Record],
    options: RelearnOptions,
    workdir: Path | None,
    weights: str,
    observers: Observers,
) -> tuple[Fitted, dict[str, int]]:
    """What the attacker trained, and the counts of the rows it was trained on."""
    rows, counts = tokenised(records, roots_of(records), model.processor, model.config.text.max_positions)
    size = min(options.batch_size, max(len(rows), 1))
    loading = {"load_image": model.processor.pixels, "image_token_id": model.config.image_token_id}
    stream = Stream(list(rows.values()), size, options.seed, **loading)
    storage = RunStorage(None if workdir is None else workdir / "training", keep=1, weights=weights)
    spec = _attacker(model, options)
    mesh = _mesh(model.params, size)
    return fit(spec, model.params, {"train": stream}, mesh=mesh, storage=storage, observers=observers), counts


def _mesh(params: Params, rows: int) -> Mesh | None:
    """The mesh of the parameters, with no more copies of them than divide the rows."""
    mesh = mesh_of(params)
    if mesh is None or jax.process_count() > 1 or rows % batch_shards(mesh) == 0:
        return mesh
    data, fsdp, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    data = next((n for n in range(data, 0, -1) if rows % (n * fsdp) == 0), 1)
    return make_mesh(data, fsdp, tensor, list(mesh.devices.flat)[: data * fsdp * tensor])


def _attacker(model: Model, options: RelearnOptions) -> TrainingSpec:
    return TrainingSpec(
        model.config,
        make_objective("sft"),
        OptimConfig(options.learning_rate, schedule="constant", warmup=0.0),
        options.steps,
        Selection(select=(), lora_rank=options.lora_rank) if options.lora_rank else FROZEN_VISION,
        seed=options.seed,
    )


def curve(rows: Sequence[Mapping[str, float]]) -> tuple[CurvePoint, ...]:
    """Points from rows of `frontier.rates`, each with its "step"."""
    points = []
    for row in rows:
        found = {name: frontier.with_interval(row, name) for name in frontier.RATES}
        points.append(CurvePoint(int(row["step"]), {name: m for name, m in found.items() if m is not None}))
    return tuple(points)


def forget_records(safety: Records, answers: str | Path, count: int, seed: int = 0) -> Records:
    """Some unsafe requests with the harmful answers that are to be brought back.

    Args:
      safety: records of the safety data.
      answers: answers jsonl of the base model on them, judged.
      count: how many are drawn.
      seed: draws them.

    Raises:
      InputError: there are not as many.
    """
    from vlm_mu_jax.data import forget_retain

    forget = forget_retain.build(safety, answers).forget
    if count > len(forget):
        raise InputError(f"{answers} has only {len(forget)} usable harmful answers, not {count}; ask for fewer")
    return dataclasses.replace(safety, items=tuple(random.Random(seed).sample(list(forget), count)))


def harmless_records(path: str | Path) -> Records:
    """The safe and general records of a VLGuard or LLaVA file.

    Raises:
      InputError: it has none.
    """
    from vlm_mu_jax.data import readers

    records = readers.read(path).of_kind("safe", "general")
    if not len(records):
        raise InputError(f"{path} holds no safe or general record; give another file")
    return records
