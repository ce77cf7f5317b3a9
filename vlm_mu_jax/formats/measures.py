"""Measured numbers, as every file writes them."""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from msgspec import Meta


def says(text: str) -> Meta:
    """What a field means, for docs/formats.md."""
    return Meta(description=text)


Curve = Annotated[list[float | None], says("one number a layer")]
Band = Annotated[list[tuple[float | None, float | None]], says("[low, high] a layer")]


class RateFields(TypedDict, total=False):
    """A share of counted cases."""

    value: Annotated[float | None, says("k / n; null where n is 0")]
    n: Annotated[int | None, says("cases counted")]
    k: Annotated[int | float | None, says("cases that hold")]
    low: Annotated[float | None, says("lower end of the 95 % interval")]
    high: Annotated[float | None, says("upper end of the 95 % interval")]


Measured = Annotated[RateFields | float | None, says("a rate, or a bare number")]
# A tree of rates: {"asr_before": rate, "gap": {"own_image": {"asr": rate}}}. What its leaves hold is checked by
# `reporting.inputs.metrics.flatten_metrics`.
Metrics = Mapping[str, Any]


class ComparisonRow(TypedDict, total=False):
    """An exact McNemar test of two runs on the same questions."""

    run: Annotated[str, says("the run tested")]
    baseline: Annotated[str, says("the run it is tested against")]
    metric: Annotated[str, says("what is compared")]
    test: Annotated[str, says("the test's name")]
    n: Annotated[int, says("pairs")]
    b: Annotated[int, says("pairs that hold for the run alone")]
    c: Annotated[int, says("pairs that hold for the baseline alone")]
    p: Annotated[float | None, says("p value")]
    p_holm: Annotated[float | None, says("p value, corrected for all tests of the file (Holm)")]
    significant: Annotated[bool, says("p_holm below 0.05")]
