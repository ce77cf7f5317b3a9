"""diagnostics.json of `bin/guard diagnose`, and defences.json of `bin/defences`."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import Band, ComparisonRow, Curve, Measured, says


class StatePoint(TypedDict, total=False):
    """A request's hidden state, projected on two components."""

    x: Annotated[float | None, says("first component")]
    y: Annotated[float | None, says("second component")]
    kind: Annotated[str | None, says("harmful or harmless")]
    condition: Annotated[str | None, says("text, blank or own")]


class Projection(TypedDict, total=False):
    """Principal components of the states of one layer."""

    layer: Annotated[int | None, says("the layer")]
    points: Annotated[list[StatePoint] | None, says("one a request and condition")]


class BlankImage(TypedDict, total=False):
    """The same measures beside one kind of blank image."""

    auroc: Annotated[Curve | None, says("separation")]


class AnsweredRequests(TypedDict, total=False):
    """What becomes of requests in one image condition."""

    harmful: Annotated[dict[str, Measured | None], says("answered, refused, ... -> the rate of harmful requests")]
    harmless: Annotated[dict[str, Measured | None], says("the same of harmless requests")]
    perplexity: Annotated[Measured | None, says("of all answers")]
    tokens: Annotated[Measured | None, says("of all answers")]


class AnswersByImage(TypedDict, total=False):
    """What becomes of requests beside each kind of image."""

    conditions: Annotated[dict[str, AnsweredRequests] | None, says("image condition -> what becomes of requests")]


class DiagnosticsFile(TypedDict, total=False):
    """diagnostics.json of bin/guard diagnose."""

    schema: Annotated[int, says("version of the format")]
    pca: Annotated[Projection | None, says("states in one plane")]
    auroc: Annotated[dict[str, Curve] | None, says("condition -> how well the direction separates")]
    auroc_interval: Annotated[dict[str, Band] | None, says("condition -> 95 % intervals")]
    auroc_refit: Annotated[dict[str, Curve] | None, says("condition -> the same, direction fitted anew")]
    cosine: Annotated[dict[str, Curve] | None, says("condition -> cosine with the text's direction")]
    skipped: Annotated[list[list[Any]] | None, says("[row, why] of requests too long for the model")]
    stress: Annotated[dict[str, BlankImage] | None, says("kind of blank image -> its measures")]
    answers: Annotated[AnswersByImage | None, says("--answers: what becomes of requests")]


class DefenceMetrics(TypedDict, total=False):
    """The rates of one defence."""

    settings: Annotated[
        dict[str, dict[str, dict[str, Measured | None]]] | None,
        says("instruction setting -> image -> asr, rr_harmless, ... -> the rate"),
    ]


class DefenceRow(TypedDict, total=False):
    """One defence."""

    name: Annotated[str | None, says("its name")]
    metrics: Annotated[DefenceMetrics | None, says("its rates")]


class DefencesFile(TypedDict, total=False):
    """defences.json of bin/defences."""

    schema: Annotated[int, says("version of the format")]
    rows: Required[Annotated[list[DefenceRow], says("one a defence")]]
    comparisons: Annotated[list[ComparisonRow] | None, says("paired tests against the model without a defence")]
