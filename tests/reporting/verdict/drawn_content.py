"""Draws the contents of a report at random: any models, any rates, any of them missing, with and without intervals."""

from pathlib import Path

from hypothesis import strategies as st

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate, flatten_metrics
from vlm_mu_jax.reporting.inputs.runs import ModelRun

KINDS = ("base", "sft", "npo", "rmu", "guard")
RATES = ("asr_before", "asr_after", "asr_null", "rr_before", "rr_after", "harmless_right_before")
RATES += ("harmless_right_after", "utility")
OPENINGS = ("share", "what", "describe")
CONDITIONS = ("text_only", "blank_image", "own_image")

# Shares near the limits of the targets and near 0 and 1 are drawn more often than others.
shares = st.one_of(
    st.sampled_from((0.0, 0.05, 0.1, 0.149, 0.151, 0.5, 0.845, 0.849, 0.851, 0.95, 1.0)), st.floats(0, 1)
)


@st.composite
def rates(draw) -> dict:
    found = runs_builder.metric(draw(shares), draw(st.sampled_from((7, 48, 96, 1000))))
    return {"value": found["value"]} if draw(st.integers(0, 9)) == 0 else found


def some(names, of):
    """A dictionary of some of the names."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, of))


@st.composite
def told(draw, values):
    """What the story tells, complete, with a rate drawn anew here and there: verdicts of every kind come up."""
    if isinstance(values, dict):
        return {name: draw(told(value)) for name, value in values.items()}
    return draw(rates()) if draw(st.integers(0, 24)) == 0 else runs_builder.metric(values, 96)


def story(kind: str) -> dict:
    """The invented story as plain numbers."""
    kind_, *numbers = runs_builder.STORY[kind]
    names = ("asr_before", "asr_after", "rr_before", "rr_after", "harmless_right_before", "harmless_right_after")
    found = dict(zip((*names, "utility"), numbers, strict=True)) | {"asr_null": numbers[0]}
    found["harmless_right_by_opening"] = dict.fromkeys(OPENINGS, found["harmless_right_after"])
    refused = {"guard": (0.98, 0.95, 0.9)}.get(kind_, (0.9, 0.1, 0.2))
    found["gap"] = {
        condition: {"asr": 1 - rate, "rr": rate, "harmless_right": 0.95}
        for condition, rate in zip(CONDITIONS, refused, strict=True)
    }
    return found


@st.composite
def runs(draw, kind: str, seed: int, complete: bool) -> ModelRun:
    if complete:
        metrics = draw(told(story(kind)))
    else:
        metrics = draw(some(RATES, rates()))
        metrics["asr_by_opening"] = draw(some(OPENINGS, rates()))
        metrics["harmless_right_by_opening"] = draw(some(OPENINGS, rates()))
        metrics["gap"] = draw(some(CONDITIONS, some(("asr", "rr", "harmless_right"), rates())))
    label = f"{kind}, seed {seed}"
    return ModelRun(kind, kind, seed, flatten_metrics(metrics, label), {"metrics": metrics}, Path(label), label)


@st.composite
def attacks(draw, model: str, complete: bool) -> dict:
    """attack.json of a search made for a model."""
    words = st.sampled_from(("wug", "dax", "blick"))
    found = st.lists(st.tuples(words, rates()), max_size=3)
    null = st.lists(st.tuples(words, st.sampled_from(("jailbreak", "over_refuse")), rates()), max_size=4)
    any_of = some(("asr", "rr"), some(("original", "any_of_k", "any_of_k_null"), rates()))
    if complete:
        quiet = {"original": 0.0, "any_of_k": 0.02, "any_of_k_null": 0.0}
        any_of = told({"asr": quiet, "rr": quiet})
    return {
        "model": model,
        "jailbreak": [{"word": word, "score": 1.0, "asr": rate} for word, rate in draw(found)],
        "over_refuse": [{"word": word, "score": 1.0, "rr": rate} for word, rate in draw(found)],
        "null": [
            {"word": word, "goal": goal, ("rr" if goal == "over_refuse" else "asr"): rate}
            for word, goal, rate in draw(null)
        ],
        "any_of_k": draw(any_of),
    }


@st.composite
def contents(draw) -> Content:
    seeds, complete = (0,) if draw(st.booleans()) else (0, 1), draw(st.booleans())
    kinds = draw(
        st.lists(st.sampled_from(KINDS), min_size=1, unique=True).map(lambda found: sorted(found, key=KINDS.index))
    )
    made = [draw(runs(kind, seed, complete)) for seed in seeds for kind in kinds]
    if len(seeds) == 1:
        for run in made:
            run.label = run.name
    searched = [run.label for run in made if run.kind in ("npo", "rmu", "guard")]
    again = searched if complete else draw(some(searched, st.none())) if searched else {}
    sft = next((run.label for run in made if run.kind == "sft"), None)
    return Content(
        runs=made,
        comparisons=[],
        provenance=[],
        attack=draw(attacks(sft, complete)) if sft and draw(st.booleans()) else None,
        attack_again={name: draw(attacks(name, complete)) for name in again},
    )


def clearly(high: Rate | None, low: Rate | None) -> bool:
    """The page's own definition of "clearly", written down a second time."""
    if high is None or low is None:
        return False
    known = high.low is not None and low.high is not None
    return high.low > low.high if known else high.value - low.value >= 0.2
