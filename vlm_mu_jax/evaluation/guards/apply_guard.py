"""Application: a request file answered under a guard, judged and counted."""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from vlm_mu_jax.data.images import image_id
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.guards.asking import (
    JudgeChoice,
    blank_of,
    fitting,
    judge_of,
    labels_of,
    left_out_lines,
    read_requests,
    shown,
)
from vlm_mu_jax.evaluation.statistics import Metric, proportion
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.guarded_answers import GuardedAnswer, answer
from vlm_mu_jax.storage.model_folder import Model

NAMES = {"unsafe": "harmful", "safe": "harmless"}


@dataclasses.dataclass(frozen=True)
class ApplyOptions:
    """How requests are asked.

    Attributes:
      images: conditions, each of which asks every request once: "own", "blank" or "none".
      blank: kind of the blank image.
      max_new_tokens: longest answer, in tokens.
      batch_size: prompts run at a time.
    """

    images: Sequence[str] = ("blank",)
    blank: str = "white"
    max_new_tokens: int = 64
    batch_size: int = 16


@dataclasses.dataclass(frozen=True)
class GuardedRates:
    """Rates of one kind of request under one condition.

    Attributes:
      image: the condition.
      kind: "harmful" or "harmless".
      n: how many requests were asked.
      refused, answered: shares of the answers with a verdict, with 95 % intervals.
      unjudged: answers without a verdict.
      gate: mean share of the guard's layers that acted.
    """

    image: str
    kind: str
    n: int
    refused: Metric
    answered: Metric
    unjudged: int
    gate: float

    def line(self) -> str:
        parts = [f"no verdict on {self.unjudged}"] if self.unjudged else []
        for label, rate in (("refused", self.refused), ("answered", self.answered)):
            if rate.value is not None:
                parts.append(f"{label} {rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        return f"{self.image:>6} image, {self.kind:<9} n={self.n:<5} {'   '.join(parts)}   gate on {self.gate:.2f}"


@dataclasses.dataclass(frozen=True)
class AppliedGuard:
    """Guarded answers and their rates.

    Attributes:
      answers: lines of an answers file, condition after condition, in the order of the requests.
      rates: by condition and kind, of the requests that selection did not see.
      judge: name of the judge.
      some_seen: whether requests were left out of the rates because selection had seen them.
      skipped: requests that are too long for the model, (row number, what is wrong). They are not asked.
    """

    answers: list[Answer]
    rates: list[GuardedRates]
    judge: str
    some_seen: bool
    skipped: tuple[tuple[int, str], ...] = ()

    def table(self) -> str:
        """The rates with 95 % intervals, a line each, under the judge's name."""
        head = f"by judge {self.judge}" + (", on the requests that selection did not see" if self.some_seen else "")
        return "\n".join([head, *(rates.line() for rates in self.rates), *left_out_lines(self.skipped)])


def apply_guard(
    model: Model,
    guard: Guard,
    requests: Records | str | Path,
    judge: JudgeChoice = "refusal",
    options: ApplyOptions | None = None,
    *,
    seen: Collection[str] = (),
    progress: Progress | None = None,
) -> AppliedGuard:
    """Answers requests under a guard and judges the answers.

        applied = vlm_mu_jax.apply_guard(model, guard, "runs/mini/data", "oracle")
        print(applied.table())

    Args:
      requests: unsafe and safe requests, or their file or data folder.
      judge: labels the answers, as in `select_guard`.
      seen: ids of requests that the guard's selection used (`guard_folder.validation_ids`). They are answered and left
        out of the rates.

    Returns:
      One answer per request and condition, and the rates.
    """
    options = options or ApplyOptions()
    requests = fitting(model, read_requests(requests), options.max_new_tokens)
    judge = judge_of(judge, requests)
    blank_HWC = blank_of(model, options.blank)
    lines: list[Answer] = []
    rates: list[GuardedRates] = []
    for condition in dict.fromkeys(options.images):
        answers = answer(
            model,
            shown(model, requests, condition, blank_HWC),
            guard=guard,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.batch_size,
            progress=progress,
            label=f"image: {condition}",
        )
        labels = labels_of(judge, requests, answers, condition == "own", progress)
        stated = _Lines(model, requests, condition, options.blank, blank_HWC)
        lines += [
            stated.line(record, made, {judge.name: label.to_dict()})
            for record, made, label in zip(requests, answers, labels, strict=True)
        ]
        rates += _rates(requests, answers, [label.label for label in labels], condition, seen)
    return AppliedGuard(lines, rates, judge.name, bool(seen), requests.skipped)


@dataclasses.dataclass(frozen=True)
class _Lines:
    """What all answers of one condition share."""

    model: Model
    records: Records
    condition: str
    blank: str
    blank_HWC: np.ndarray | None

    def line(self, record: Record, made: GuardedAnswer, labels: dict) -> Answer:
        """The answers line of the project (see `answers.answers_file`)."""
        image, name, pictures, context = None, None, [], Context.of(record)
        if self.condition == "blank":
            image = name = f"blank:{self.blank}"
            pictures = [self.blank_HWC]
        elif self.condition == "own" and record.images:
            pictures = list(self.records.image_paths(record))
            image, name = "own", "+".join(map(image_id, pictures))
        if image != "own":
            context = context and context.without_images(len(pictures))
        ids = np.asarray(self.model.processor.prompt_ids(record.question, pictures, context), "<i4")
        return Answer(
            id=record.id,
            condition=Condition(image=image or "none"),
            image_id=name,
            prompt_sha=hashlib.sha256(ids.tobytes()).hexdigest(),
            question=record.question,
            answer=made.text,
            tokens=made.tokens,
            labels=labels,
        )


def _rates(
    records: Records, answers: list[GuardedAnswer], labels: list[str | None], condition: str, seen: Collection[str]
) -> list[GuardedRates]:
    found = []
    for kind, name in NAMES.items():
        at = [k for k, record in enumerate(records) if record.kind == kind and record.id not in seen]
        if not at:
            continue
        known = [labels[k] for k in at if labels[k] is not None]
        refused, answered = (proportion(known.count(label), len(known)) for label in ("refused", "answered"))
        gate = sum(answers[k].gate for k in at) / len(at)
        found.append(GuardedRates(condition, name, len(at), refused, answered, len(at) - len(known), gate))
    return found
