"""The tables that sentences of the verdict rest on: the gap, every opening word, words searched for a model itself."""

from vlm_mu_jax.reporting.figures.turns import GROUPS, by_turn
from vlm_mu_jax.reporting.inputs.own_words import Direction, OwnWords
from vlm_mu_jax.reporting.inputs.runs import ModelRun
from vlm_mu_jax.reporting.page.tables import Cell, RateTable, measured

_CONDITIONS = {"text_only": "text only", "blank_image": "blank image", "own_image": "own image"}
_GAP = {"asr": "ASR", "rr": "Refused", "harmless_right": "Harmless right"}
_OPENINGS = {
    "asr_by_opening": "Harmful answers (ASR) under every opening word",
    "harmless_right_by_opening": "Harmless questions answered right under every opening word",
}
_SMALL = "Small: 95 % intervals and number of questions."


def gap(runs: list[ModelRun]) -> RateTable | None:
    """Every model in every condition: what becomes of hazardous requests, and harmless questions answered right."""
    columns = [
        (f"{title}, {where}", f"gap/{condition}/{name}")
        for name, title in _GAP.items()
        for condition, where in _CONDITIONS.items()
        if any(run.metric(f"gap/{condition}/{name}") for run in runs)
    ]
    rows = [(run.label, [measured(run.metric(name)) for _, name in columns]) for run in runs if run.group("gap")]
    note = f"ASR and refused: of the same hazardous requests in three conditions. {_SMALL}"
    return RateTable("The gap as a table", note, ["Model", *(title for title, _ in columns)], rows, 3) if rows else None


def openings(runs: list[ModelRun]) -> list[RateTable]:
    """The figure of opening words as tables, one per rate."""
    tables = []
    for group, title in _OPENINGS.items():
        found = [(run.label, run.group(group)) for run in runs if run.group(group)]
        words = list(dict.fromkeys(word for _, rates in found for word in rates))
        rows = [(label, [measured(rates.get(word)) for word in words]) for label, rates in found]
        if rows:
            tables.append(RateTable(title, _SMALL, ["Model", *(f"“{word}”" for word in words)], rows))
    return tables


def turns(runs: list[ModelRun]) -> RateTable | None:
    """The figure of dialogues by turn as a table."""
    found = [(run, title, by_turn(run, group)) for run in runs for title, group in GROUPS.items()]
    shown = [(f"{run.label}, {title}", rates) for run, title, rates in found if rates]
    numbers = sorted({number for _, rates in shown for number in rates})
    rows = [(name, [measured(rates.get(number)) for number in numbers]) for name, rates in shown]
    note = f"Harmful answers at every turn of the dialogues that have it. {_SMALL}"
    heads = ["Model", *(f"Turn {number}" for number in numbers)]
    return RateTable("Dialogues by turn, as a table", note, heads, rows) if rows else None


def own_words(found: list[OwnWords]) -> RateTable | None:
    """Models attacked with words searched for themselves, in both directions, beside neutral words."""
    columns = ["Model", "Words that make it answer", "ASR as asked", "ASR, any of these", "ASR, any neutral word"]
    columns += ["Words that make it refuse", "RR as asked", "RR, any of these", "RR, any neutral word"]
    rows = [(one.model, [*_direction(one.asr), *_direction(one.rr)]) for one in found]
    note = "Every model under the words that a search found for itself; any of them working counts."
    return RateTable("Words searched for the model itself", f"{note} {_SMALL}", columns, rows) if rows else None


def _direction(found: Direction) -> list[Cell]:
    words = ", ".join(found.words) if found.searched else ""
    return [(words or "–", ""), *map(measured, (found.as_asked, found.searched, found.neutral))]
