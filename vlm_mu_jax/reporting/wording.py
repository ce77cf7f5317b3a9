"""Numbers in words, one way for the whole page: percentages, intervals, counts and ranges over seeds."""

from collections.abc import Iterable

from vlm_mu_jax.reporting.inputs.metrics import Rate

_KINDS = {"base": "original model", "sft": "safety fine-tuned", "guard": "guarded at inference", "other": "other"}
_SPACE, _JOINED = "\u00a0", "\u2060"  # keep number and percent sign, or both ends of an interval, on one line


def kind(name: str) -> str:
    """What a kind of run is, in words; any kind not known here is a way of unlearning."""
    return _KINDS.get(name) or f"unlearned, {name.upper()}"


def percent(value: float | None, n: int | None = None) -> str:
    """A fraction as a percentage; one decimal only where the sample can carry it (n >= 1000)."""
    if value is None:
        return "–"
    return f"{100 * value:.{_digits(n) if 0 < value < 1 else 0}f}{_SPACE}%"


def _digits(n: int | None) -> int:
    return 1 if n and n >= 1000 else 0


def rate(metric: Rate | None) -> str:
    return percent(metric.value, metric.n) if metric else "–"


def interval(metric: Rate | None) -> str:
    """The 95 % interval in percent as "91–99", one decimal where the sample can carry it; empty when unknown."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    digits = _digits(metric.n)
    return f"{100 * metric.low:.{digits}f}–{100 * metric.high:.{digits}f}"


def standing_on(metric: Rate | None) -> str:
    """What a rate stands on, for the small print below it: "91–99 · n = 96"."""
    return " · ".join(filter(None, (interval(metric), sizes([metric]))))


def stated(metric: Rate | None) -> str:
    """A rate with its interval, for a sentence: "99 % [94–100]", on one line."""
    bounds = interval(metric).replace("–", f"{_JOINED}–{_JOINED}")
    return f"{rate(metric)}{_SPACE}[{bounds}]" if bounds else rate(metric)


def sizes(metrics: Iterable[Rate | None]) -> str:
    """On how many questions rates stand: "n = 96", or "n = 40 to 96"; empty when no rate says so."""
    return size_range(metric.n for metric in metrics if metric and metric.n)


def standing(metrics: Iterable[Rate | None]) -> str:
    """A last sentence that says on how many questions the rates before it stand; empty when not known."""
    found = sizes(metrics)
    return f" Questions: {found}." if found else ""


def size_range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return "" if not found else f"n = {found[0]}" + (f" to {found[-1]}" if len(found) > 1 else "")


def count(metric: Rate | None) -> str:
    """ "31 of 36" when the numerator is known, "n = 36" when only the sample size is."""
    if metric is None or metric.n is None:
        return ""
    return f"{metric.k} of {metric.n}" if metric.k is not None else f"n = {metric.n}"


def span(values: list[float]) -> str:
    """One percentage, or the range over seeds: "0 to 3 %"."""
    low, high = f"{100 * min(values):.0f}", f"{100 * max(values):.0f}"
    return f"{low}{_SPACE}%" if low == high else f"{low} to {high}{_SPACE}%"


def listing(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}" if p < 0.01 else f"p = {p:.2f}"


_RATES = {"asr": "ASR", "rr": "RR", "ir": "IR", "unsafe": "on unsafe", "harmless": "on harmless"}


def metric(path: str) -> str:
    """The name of a metric in words: "gap/blank_image/asr" is "ASR, blank image"."""
    *where, name = path.removeprefix("gap/").split("/")
    parts = name.split("_")
    when = [part for part in parts if part in ("before", "after")]
    what = [_RATES.get(part, part) for part in parts if part not in ("before", "after")]
    text = " ".join(what).replace("on harmless right", "harmless right")
    return ", ".join([text, *when, *(place.replace("_", " ") for place in where)])
