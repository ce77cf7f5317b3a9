"""metrics.jsonl and sweep.json of `bin/train`, and relearn.json of `bin/relearn`."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import Measured, says


class RelearningPoint(TypedDict, total=False):
    """The model after some steps of relearning."""

    step: Required[Annotated[int, says("updates so far")]]
    metrics: Annotated[dict[str, Measured | None], says("asr, harmless_right, rr, ... -> the rate")]


class RelearningFile(TypedDict, total=False):
    """relearn.json of bin/relearn."""

    schema: Annotated[int, says("version of the format")]
    label: Annotated[str | None, says("the model and what it was trained on")]
    curve: Required[Annotated[list[RelearningPoint], says("one a measurement")]]


class SweepRow(TypedDict, total=False):
    """One run of the grid, by its validation questions."""

    name: Annotated[str | None, says("the values that differ")]
    values: Annotated[dict[str, Any], says("config path -> value")]
    step: Annotated[int, says("the update whose evaluation counts")]
    frontier: Annotated[float | None, says("how near to no harmful answer and all harmless ones right; 1 is there")]
    on_front: Annotated[bool | None, says("whether no other point is better in all rates")]
    metrics: Annotated[dict[str, Measured | None] | None, says("asr, harmless_right, rr, utility -> the rate")]


class SweepFile(TypedDict, total=False):
    """sweep.json of bin/train."""

    schema: Annotated[int, says("version of the format")]
    objective: Annotated[str, says("the objective's name")]
    points: Annotated[int, says("points of the whole grid")]
    best: Annotated[str, says("the name of the point with the best frontier")]
    rows: Required[Annotated[list[SweepRow], says("one a point that has ended")]]


class StepLine(TypedDict, total=False):
    """A line of metrics.jsonl of bin/train."""

    step: Annotated[int | None, says("update")]
    loss: Annotated[float | None, says("the objective's loss")]
