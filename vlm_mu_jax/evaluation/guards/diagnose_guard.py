"""Diagnosis: what an image does to a model's states along a guard's directions and, if asked, to its answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.images import BLANK_KINDS
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.data.rendering import contexts_of
from vlm_mu_jax.errors import InputError
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
from vlm_mu_jax.evaluation.judges import LABELS, BatchJudge, Judge
from vlm_mu_jax.evaluation.perplexity import AnswerLikelihood, Perplexity, summary
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering import diagnostics
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.guarded_answers import answer
from vlm_mu_jax.steering.hidden_states import POSITION, last_token_states
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class DiagnoseOptions:
    """What is measured.

    Attributes:
      layer: layer of the PCA; None is the middle one.
      blank: kind of the blank image of the condition "blank". The other kinds are measured as a stress test.
      llm: another language model or its folder, whose directions are compared with those of `model`.
      answers: also answers every request in every condition, without the guard.
      perplexity_model: the model, or its folder, that scores the answers' fluency. None: the language tower of `model`.
      max_new_tokens: longest answer, in tokens.
      batch_size: prompts run at a time.
    """

    layer: int | None = None
    blank: str = "white"
    llm: Model | str | Path | None = None
    answers: bool = False
    perplexity_model: Model | str | Path | None = None
    max_new_tokens: int = 64
    batch_size: int = 16


@dataclasses.dataclass(frozen=True)
class GuardDiagnosis:
    """The measurements, as the report reads them.

    Attributes:
      content: the keys of `diagnostics.diagnose`, and
        "stress": as `diagnostics.stress`, for a model with vision;
        "answers": {"judge", "perplexity_model", "conditions"}, if asked for;
        "direction": the guard's origin; "blank", "llm", "data_sha256": what was measured with;
        "skipped": requests too long for the model, [row number, what is wrong].
    """

    content: dict[str, Any]

    def table(self) -> str:
        """AUROCs and cosines per layer, and the rates of the answers, as text."""
        lines, found = [], self.content
        for key, title in (
            ("auroc", "AUROC along the text direction"),
            ("auroc_refit", "AUROC, direction fitted anew"),
        ):
            lines += [_layers(f"{title}, {name}", values) for name, values in found[key].items()]
        for kind, row in found.get("stress", {}).items():
            lines.append(_layers(f"AUROC along the text direction, {kind}", row["auroc"]))
        lines += [_layers(f"cosine with the text direction, {name}", row) for name, row in found["cosine"].items()]
        for name, row in found.get("answers", {}).get("conditions", {}).items():
            shown = [("harmful", "answered"), ("harmful", "refused"), ("harmless", "refused")]
            rates = "  ".join(f"{kind} {label} {_number(row[kind][label], 100)} %" for kind, label in shown)
            fluency = f"perplexity {_number(row['perplexity'])}  tokens {_number(row['tokens'])}"
            lines.append(f"answers, {name:<6} {rates}  {fluency}")
        return "\n".join([*lines, *left_out_lines(found["skipped"])])

    def save(self, path: str | Path) -> None:
        """Writes `content` as JSON."""
        write_json(path, self.content)


def diagnose_guard(
    model: Model,
    guard: Guard,
    requests: Records | str | Path,
    judge: JudgeChoice = "refusal",
    options: DiagnoseOptions | None = None,
    *,
    progress: Progress | None = None,
) -> GuardDiagnosis:
    """Measures what an image does to the states of requests along a guard's directions.

        print(vlm_mu_jax.diagnose_guard(model, guard, "runs/mini/data").table())

    Args:
      guard: gives the directions. The model runs without it.
      requests: unsafe and safe requests, or their file or data folder.
      judge: labels the answers, with `DiagnoseOptions.answers`; as in `select_guard`.

    Raises:
      InputError: the guard reads another token than the last one, only one kind of request, or no such layer.
    """
    options = options or DiagnoseOptions()
    room = options.max_new_tokens if options.answers else 0
    requests = fitting(model, read_requests(requests), room)
    if guard.origin["position"] != POSITION:
        raise InputError(f"the guard reads {guard.origin['position']}, diagnosis reads {POSITION}; use another guard")
    layer = model.config.text.L // 2 if options.layer is None else options.layer
    how: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress}
    states = diagnostics.condition_states(model, requests, blank_of(model, options.blank), **how)
    found = diagnostics.diagnose(states, requests, guard.directions, layer)
    if "blank" in states:
        others = [kind for kind in BLANK_KINDS if kind != options.blank]
        blanks = {options.blank: states["blank"]} | diagnostics.blank_states(model, requests, others, **how)
        found["stress"] = diagnostics.stress(blanks, states["text"], requests, guard.directions)
    if options.llm is not None:
        found["cosine"] = _with_llm(model_folder.opened(options.llm), states, requests, how)
    if options.answers:
        found["answers"] = _answers(model, requests, judge_of(judge, requests), options, progress)
    about = {"direction": guard.origin, "blank": options.blank, "llm": None, "data_sha256": requests.sha256}
    about |= {"skipped": [list(one) for one in requests.skipped]}
    if options.llm is not None:
        about["llm"] = str(getattr(options.llm, "folder", options.llm))
    return GuardDiagnosis(found | about)


def _with_llm(
    llm: Model, states: dict[str, np.ndarray], requests: Records, how: dict[str, Any]
) -> dict[str, list[float]]:
    questions, words = [request.question for request in requests], contexts_of(requests, 0)
    llm_LND = last_token_states(llm, questions, **how, label="states, other language model", contexts=words)
    return diagnostics.cosines(states, diagnostics.kinds_of(requests), llm_LND)


def _answers(
    model: Model, requests: Records, judge: Judge | BatchJudge, options: DiagnoseOptions, progress: Progress | None
) -> dict[str, Any]:
    """{"judge", "perplexity_model", "conditions": {condition: {harmful, harmless: rates; perplexity, tokens}}}."""
    size = options.batch_size
    fluency = Perplexity(model_folder.opened(options.perplexity_model or model), size)
    asked = {"text": shown(model, requests, "none", None)}
    if model.config.vision is not None:
        asked |= {kind: shown(model, requests, "blank", blank_of(model, kind)) for kind in BLANK_KINDS}
        if all(request.images for request in requests):
            asked["own"] = shown(model, requests, "own", None)
    conditions = {}
    for name, prompts in asked.items():
        made = answer(
            model,
            prompts,
            max_new_tokens=options.max_new_tokens,
            batch_size=size,
            progress=progress,
            label=f"answers, {name}",
        )
        labels = [one.label for one in labels_of(judge, requests, made, name == "own", progress)]
        scores = fluency(prompts.questions, [one.text for one in made], progress, asked["text"].contexts)
        conditions[name] = _rates(requests, labels) | _fluency(scores, labels)
    return {"judge": judge.name, "perplexity_model": fluency.name, "conditions": conditions}


def _rates(requests: Records, labels: Sequence[str | None]) -> dict[str, Any]:
    """{"harmful", "harmless": {label: metric}}; answers without a verdict leave the denominator."""
    found = {}
    for name, unsafe in (("harmful", True), ("harmless", False)):
        own = [label for request, label in zip(requests, labels, strict=True) if (request.kind == "unsafe") == unsafe]
        known = [label for label in own if label is not None]
        found[name] = {label: proportion(known.count(label), len(known)).to_dict() for label in LABELS}
    return found


def _fluency(scores: Sequence[AnswerLikelihood], labels: Sequence[str | None]) -> dict[str, Any]:
    kept = [score for score, label in zip(scores, labels, strict=True) if label != "refused"]
    return summary(scores) | {"perplexity_not_refused": summary(kept)["perplexity"]}


def _layers(title: str, values: Sequence[float]) -> str:
    return f"{title:<38}" + "".join(f"{value:7.3f}" for value in values)


def _number(metric: dict[str, Any], scale: float = 1) -> str:
    return "-" if metric["value"] is None else f"{scale * metric['value']:.3g}"
