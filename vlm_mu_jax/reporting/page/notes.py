"""Notes beside tables and figures: on how many questions they stand, what a guard is not made for, missing verdicts."""

from vlm_mu_jax.data.turns import FIRST, named
from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import BASE, GUARD, ModelRun
from vlm_mu_jax.reporting.inputs.word_rows import search_rows
from vlm_mu_jax.reporting.verdict.claims import clearly_above

# What each figure of rates is drawn from.
_FIGURE_RATES = {
    "bars": ("asr_before", "asr_after", "rr_before", "rr_after", "harmless_right_before", "harmless_right_after"),
    "openings": ("asr_by_opening", "harmless_right_by_opening"),
    "shots": ("asr_after_by_shots",),
    "turns": ("dialogues/asr_by_turn",),
    "frontier": ("asr_after", "harmless_right_after"),
    "composition": ("asr_after", "ir_unsafe_after"),
    "gap": ("gap",),
}


def asked(content: Content) -> dict[str, str]:
    """On how many questions each figure stands, for the end of its caption."""
    rates = {
        figure: [metric for run in content.runs for name in of for metric in _under(run, name)]
        for figure, of in _FIGURE_RATES.items()
    }
    lists = ("jailbreak", "over_refuse", "null")
    rates["search"] = [row[2] for name in lists for row in search_rows(content.attack or {}, name)]
    said = {figure: wording.sizes(metrics) for figure, metrics in rates.items()}
    return {figure: f", {sizes} each" if sizes else "" for figure, sizes in said.items()}


def _under(run: ModelRun, name: str) -> list[Rate]:
    """A rate, or all rates of a group."""
    return [run.metrics[name]] if name in run.metrics else list(run.group(name).values())


def guard_note(runs: list[ModelRun]) -> str:
    """Said where a guard does nothing for the unsafe questions of the main table: they are not what it is made for."""
    plain = next((run for run in runs if run.kind == BASE and run.metric("asr_before")), None)
    guarded = next((run for run in runs if run.kind == GUARD and run.metric("asr_before")), None)
    if not plain or not guarded or clearly_above(plain.metric("asr_before"), guarded.metric("asr_before")):
        return ""
    without, with_guard = plain.metric("asr_before"), guarded.metric("asr_before")
    effect = "is clearly higher with it" if clearly_above(with_guard, without) else "is not clearly lower with it"
    return (
        "The guard is made to bring back refusals that the language model gives to the text alone; see “Gap and guard”."
        f" On the unsafe questions of this table ASR {effect}: {wording.stated(without)} without,"
        f" {wording.stated(with_guard)} with it."
    )


def samples(runs: list[ModelRun]) -> str:
    """How many questions stand behind the two main columns, for the table's caption."""
    parts = []
    for name, text in (("asr_after", "unsafe"), ("rr_after", "harmless")):
        sizes = sorted({m.n for run in runs if (m := run.metric(name)) and m.n})
        if sizes:
            parts.append(f"{sizes[0]} {text}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} {text}")
    return " and ".join(parts) + " questions" if parts else ""


def attack_turn(runs: list[ModelRun]) -> str:
    """Which question of the dialogues the words of the search open, for the figure's caption."""
    turns = dict.fromkeys(str(run.raw["attack_turn"]) for run in runs if run.raw.get("attack_turn"))
    return " or ".join(map(named, turns)) or named(FIRST)


def unjudged(run: ModelRun) -> dict[str, int]:
    """How many answers the judge gave no verdict on, by reason."""
    return run.raw.get("unjudged") or {}
