"""Which words of a question decide a refusal (bin/audit --saliency): questions with coloured words, ready to show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate
from vlm_mu_jax.reporting.page.browser import ABSENT, CONCEALED, SHOWN

METHODS = (("removal", "Taking the word out"), ("gradient_x_input", "Gradient × input"))
_MOST = 12  # questions of one model; the file holds all
_KINDS = {"unsafe": "unsafe", "safe": "harmless", "general": "general"}


@dataclass(frozen=True)
class Word:
    """`role`: "for" refusing or "against" it. `strength`: share of the question's largest effect, in percent."""

    text: str
    role: str
    strength: int
    effect: str  # in nats, with its sign


@dataclass(frozen=True)
class MarkedQuestion:
    """`strips`: the words once per method of METHODS."""

    name: str
    kind: str
    margin: str
    strips: list[list[Word]]


@dataclass(frozen=True)
class Saliency:
    """One model. `text`: whether the questions' words may be shown; see `browser.payload`.

    `first`: per method, how often the first word has the largest effect of all, with interval. `openings`: (word, n,
    mean effect of taking it out, of gradient x input).
    """

    model: str
    text: str
    first: list[tuple[str, str]]
    chance: str
    openings: list[tuple[str, int, str, str]]
    questions: list[MarkedQuestion]
    total: int


def saliencies(content: Content) -> list[Saliency]:
    """Every model whose words were weighed: in the audit given, and in the files of --saliency."""
    files = [content.audit or {}, *content.evidence.get("saliency", [])]
    return [one for file in files if (one := _saliency(file, content.show_text))]


def _saliency(audit: Mapping[str, Any], show_text: bool) -> Saliency | None:
    found = audit.get("saliency")
    if not found:
        return None
    asked = [row for row in found.get("questions") or [] if _words(row)]
    if not asked:
        return None
    invented = (audit.get("data") or {}).get("miniature") is True
    state = SHOWN if invented else CONCEALED if show_text else ABSENT
    return Saliency(
        model=str(found.get("model") or ""),
        text=state,
        first=[(title.lower(), wording.stated(metric)) for name, title in METHODS if (metric := _first(found, name))],
        chance=wording.percent(found.get("chance")),
        openings=_openings(found) if state != ABSENT else [],
        questions=[_question(row, state != ABSENT) for row in asked[:_MOST]],
        total=len(asked),
    )


def _first(found: Mapping[str, Any], method: str) -> Rate | None:
    return as_rate((found.get(method) or {}).get("opening_first"), f"saliency: {method}")


def _words(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The words of a question that have both effects."""
    return [word for word in row.get("words") or [] if all(word.get(method) is not None for method, _ in METHODS)]


def _question(row: Mapping[str, Any], readable: bool) -> MarkedQuestion:
    kind = str(row.get("kind") or "")
    margin = row.get("margin")
    return MarkedQuestion(
        name=str(row.get("id") or ""),
        kind=_KINDS.get(kind, kind),
        margin="" if margin is None else f"{margin:+.1f}",
        strips=[_strip(_words(row), method, readable) for method, _ in METHODS],
    )


def _strip(rows: list[Mapping[str, Any]], method: str, readable: bool) -> list[Word]:
    """Words that may not be shown are their number in the question."""
    effects = [row.get(method) or 0.0 for row in rows]
    largest = max(map(abs, effects)) or 1.0
    return [
        Word(
            str(row.get("word", "")) if readable else str(place),
            "for" if effect > 0 else "against",
            round(100 * abs(effect) / largest),
            f"{effect:+.2f}",
        )
        for place, (row, effect) in enumerate(zip(rows, effects, strict=True), start=1)
    ]


def _openings(found: Mapping[str, Any]) -> list[tuple[str, int, str, str]]:
    """Opening words with the mean effect by both methods, the most frequent first."""
    first, second = ((found.get(method) or {}).get("by_opening") or {} for method, _ in METHODS)
    rows = []
    for word, one in first.items():
        effects = [part.get("effect") for part in (one, second.get(word, {}))]
        if None not in effects:
            rows.append((word, one.get("n") or 0, *(f"{effect:+.1f}" for effect in effects)))
    return rows
