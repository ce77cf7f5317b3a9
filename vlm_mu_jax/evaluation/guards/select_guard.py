"""Selection: tries options of a guard on real answers and keeps the best."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.records import Records
from vlm_mu_jax.evaluation.guards.asking import JudgeChoice, blank_of, fitting, judge_of, left_out_lines, read_requests
from vlm_mu_jax.evaluation.guards.trials import Trials, validation_split
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.selection import OFF, Bounds, Candidate, Grid, GuardChoice, default_layer_sets, select
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class SelectOptions:
    """What is tried, on which requests, and what a choice may cost.

    Attributes:
      operators, strengths: values to try.
      ranks: how many of the guard's directions to use; 0 is all of them.
      layer_sets: layers to try, as `operators.parse_layers` reads them. None: `selection.default_layer_sets`.
      gates: gates to try. None: `midpoint_blank` if the gate sees the image, else `midpoint`.
      scopes: scopes to try. None: the guard's own, `last` and `text`.
      bounds: what a candidate may cost harmless requests and must gain on harmful ones.
      validation_share: share of the requests that the choice may see, drawn by id.
      max_questions: at most this many requests of each kind; None is no bound.
      blank: kind of the blank image.
      max_new_tokens: longest answer, in tokens.
      batch_size: prompts run at a time.
    """

    operators: Sequence[str] = ("amplify", "add")
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    ranks: Sequence[int] = (0,)
    layer_sets: Sequence[str] | None = None
    gates: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    bounds: Bounds = Bounds()
    validation_share: float = 0.5
    max_questions: int | None = None
    blank: str = "white"
    max_new_tokens: int = 64
    batch_size: int = 16

    def candidates(self, model: Model, guard: Guard) -> list[Candidate]:
        """The candidates for this guard, "off" first.

        Raises InputError for a gate that the guard cannot have, and for more directions than it has.
        """
        sees_image = guard.options.gate_source == "self" and model.config.vision is not None
        layers = model.config.text.L
        grid = Grid(
            operators=self.operators,
            strengths=self.strengths,
            layer_sets=self.layer_sets or default_layer_sets(layers),
            gates=self.gates or ["midpoint_blank" if sees_image else "midpoint"],
            scopes=self.scopes or list(dict.fromkeys([guard.options.scope, "last", "text"])),
            component=guard.options.gate_source if guard.options.decide == "example" else "token",
            ranks=self.ranks,
        )
        found = grid.candidates(layers)
        for gate in grid.gates:
            guard.using(gate=gate).threshold_L()
        guard.using(rank=max(candidate.rank for candidate in found))
        return found


@dataclasses.dataclass(frozen=True)
class GuardSelection:
    """The chosen guard, and every candidate with its scores.

    Attributes:
      guard: the guard with the chosen options. It does nothing when no candidate was better than no guard.
      selection: all candidates with their scores, and the bounds.
      judge: name of the judge.
      requests: the validation requests, which the choice has seen. Evaluate the guard on others.
    """

    guard: Guard
    selection: GuardChoice
    judge: str
    requests: Records

    @property
    def acts(self) -> bool:
        """Whether a candidate was better than no guard."""
        return self.selection.best.operator != OFF.operator

    def table(self) -> str:
        """Every candidate with its scores, as text."""
        return "\n".join([self.selection.table(), *left_out_lines(self.requests.skipped)])

    def as_json(self) -> dict[str, Any]:
        """What guard.json keeps under "selection"."""
        return self.selection.as_json() | {
            "judge": self.judge,
            "harmful": len(self.requests.of_kind("unsafe")),
            "harmless": len(self.requests.of_kind("safe")),
            "data_sha256": self.requests.sha256,
            "validation_ids": [record.id for record in self.requests],
            "skipped": [list(one) for one in self.requests.skipped],
        }

    def save(self, folder: str | Path, files: Mapping[str, bytes] | None = None) -> None:
        """Writes the guard with its selection, as `Guard.save`. files: further files by name, such as a picture."""
        self.guard.save(folder, {"selection": self.as_json()}, files)


def _with_image_hidden(selection: GuardChoice, score: Trials, bounds: Bounds) -> GuardChoice:
    """The choice between the best candidate and the same with the image hidden from the answer."""
    hidden = dataclasses.replace(selection.best, hide_image=True)
    again = select([OFF, selection.best, hidden], score, bounds)
    return GuardChoice(again.best, [*selection.rows, again.rows[-1]], bounds)


def select_guard(
    model: Model,
    guard: Guard,
    requests: Records | str | Path,
    judge: JudgeChoice = "refusal",
    options: SelectOptions | None = None,
    *,
    progress: Progress | None = None,
) -> GuardSelection:
    """Chooses a guard's options by the answers that the guarded model gives to validation requests.

        chosen = vlm_mu_jax.select_guard(model, guard, "runs/mini/data", "oracle")
        print(chosen.table())
        chosen.save("runs/guard")

    The rules of the choice stand in `steering.selection`.

    Args:
      model: the model that the guard belongs to.
      guard: its directions are kept; its options are the default of what is tried.
      requests: unsafe and safe requests, or their file or data folder. A part of them, drawn by id, is asked.
      judge: tells refusals from answers: a name ("refusal", "oracle", ...), `JudgeOptions`, or a judge of your own.
        None is the best one that the data have.

    Returns:
      The guard with the chosen options, and the scores of every candidate.

    Raises:
      InputError: no unsafe or no safe request, or a candidate that this guard cannot be.
      JobError: the judge has no verdict on any answer.
    """
    options = options or SelectOptions()
    requests = fitting(model, read_requests(requests), options.max_new_tokens)
    judge = judge_of(judge, requests)
    seen = validation_split(requests, options.validation_share, options.max_questions)
    candidates = options.candidates(model, guard)
    score = Trials(
        model,
        guard,
        seen,
        judge,
        blank_HWC=blank_of(model, options.blank),
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
    )
    selection = select(candidates, score, options.bounds, progress)
    hides = model.config.vision is not None and selection.best.gate != "linear"
    if selection.best.operator != OFF.operator and hides:
        selection = _with_image_hidden(selection, score, options.bounds)
    if selection.best.operator == OFF.operator:  # a guard that does nothing, so that what comes next still runs
        guard = guard.using(operator="amplify", strength=0.0, gate="none", component="token", gate_layers=())
    else:
        guard = guard.using(**dataclasses.asdict(selection.best))
    return GuardSelection(guard, selection, judge.name, seen)
