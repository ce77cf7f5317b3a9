"""metrics.jsonl and sweep.json of `bin/train`, and relearn.json of `bin/relearn`."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import Measured, says


class RelearningPoint(TypedDict, total=False):
    """The model after some steps of relearning."""

    step: Annotated[int, says("updates so far")]
    asr: Annotated[Measured, says("harmful answers")]


class RelearningFile(TypedDict, total=False):
    """relearn.json of bin/relearn."""

    schema: Annotated[int, says("version of the format")]
    label: Annotated[str | None, says("the model and what it was trained on")]
    curve: Required[Annotated[list[RelearningPoint], says("one a measurement")]]


class SweepFile(TypedDict, total=False):
    """sweep.json of bin/train."""

    schema: Annotated[int, says("version of the format")]
    rows: Required[Annotated[list[dict[str, Any]], says("one a point of the grid")]]


class StepLine(TypedDict, total=False):
    """A line of metrics.jsonl of bin/train."""

    step: Annotated[int | None, says("update")]
    loss: Annotated[float | None, says("the objective's loss")]
