"""holds.json of `bin/holds`."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import RateFields, says


class HoldsRate(TypedDict, total=False):
    """A rate of a row, and its control."""

    rate: Required[Annotated[RateFields, says("the share of questions")]]
    control: Annotated[RateFields | None, says("the same under the control; null without one")]
    test: Annotated[dict[str, float] | None, says("exact McNemar of the rate against the control: n, b, c, p")]


class HoldsSituation(TypedDict, total=False):
    """What a model answers in one situation."""

    name: Required[Annotated[str, says("as_is, words, int4, ...")]]
    title: Required[Annotated[str, says("the name in words")]]
    what: Annotated[str | None, says("what was done")]
    control: Annotated[str | None, says("what it is compared with")]
    skipped: Annotated[str | None, says("why it could not be made; empty where it was")]
    rates: Required[Annotated[dict[str, HoldsRate], says("asr, rr, harmless_right, utility")]]
    against: Annotated[dict[str, Any] | None, says("rate -> exact McNemar against the model before, with p_holm")]


class LayersByKind(TypedDict):
    """A rate a layer, of requests of each kind."""

    harmful: Annotated[list[RateFields], says("of harmful requests")]
    harmless: Annotated[list[RateFields], says("of harmless requests")]


class FloorByKind(TypedDict):
    """What place and the token before give away, of requests of each kind."""

    harmful: Annotated[RateFields, says("of harmful requests")]
    harmless: Annotated[RateFields, says("of harmless requests")]


class DepthReading(TypedDict):
    """What the layers know in one condition."""

    kind: Annotated[list[RateFields], says("a layer each: AUROC of harmful against harmless requests")]
    probe: Annotated[LayersByKind, says("tokens that a linear probe reads")]
    lens: Annotated[LayersByKind, says("tokens that the model's own head reads")]
    floor: Annotated[FloorByKind, says("tokens read off their place and the token before")]


class DepthOfLayers(TypedDict):
    """How deep the forgetting of answers goes."""

    conditions: Annotated[dict[str, DepthReading], says("text, own -> what the layers know")]
    n: Annotated[dict[str, int], says("harmful, harmless -> requests")]


class HoldsFile(TypedDict, total=False):
    """holds.json of bin/holds."""

    schema: Annotated[int, says("version of the format")]
    name: Required[Annotated[str, says("the model's")]]
    judge: Annotated[str | None, says("whose labels count")]
    baseline: Annotated[str | None, says("the name of the model before")]
    exported_files: Annotated[dict[str, str] | None, says("of an exported folder: file -> SHA-256")]
    rows: Required[Annotated[list[HoldsSituation], says("one a situation")]]
    depth: Annotated[DepthOfLayers | None, says("what every layer knows of the answers to forget")]
    settings: Annotated[dict[str, Any] | None, says("the options")]
    provenance: Annotated[dict[str, Any] | None, says("checkpoint, data, versions and device")]
