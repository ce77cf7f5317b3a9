"""The verdict: every topic in the order of the story, worked out from the numbers of the report's tables.

A comparison of numbers chooses every sentence. None is fixed in advance, and a run that does not show a phenomenon is
said not to.
"""

from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.verdict import guard, mirage, unlearning
from vlm_mu_jax.reporting.verdict.claims import MISSING, PARTLY, SHOWN, Claim, Topic, spread

_TITLES = {
    "mirage": "The safety mirage",
    "overrefusal": "Over-refusal",
    "words": "Finding the words",
    "unlearning": "Unlearning",
    "gap": "The alignment gap",
    "guard": "The guard",
}
_CAPTIONS = {
    "mirage": "harmful answers of the safety-tuned model, before → after one word",
    "overrefusal": "harmless questions it refuses, before → after one word",
    "words": "unsafe requests answered, best neutral word → best word of the search",
    "unlearning": "harmful answers after the attack, SFT → best unlearned model",
    "gap": "hazardous requests {measure}, text only → the worse of the images",
    "guard": "hazardous requests {measure}, the worse of the images, without → with guard",
}
_MEASURES = {"rr": "refused", "asr": "answered harmfully"}


def topics(content: Content) -> list[Topic]:
    """All topics in the order of the story. A topic that was not measured says so."""
    claims: dict[str, list[Claim]] = {key: [] for key in _TITLES}
    for seed in content.seeds:
        runs = content.of_seed(seed)
        found = (
            mirage.mirage(runs),
            mirage.overrefusal(runs, content),
            unlearning.unlearning(runs, content),
            guard.gap(runs),
            guard.guard(runs, content),
        )
        for claim in filter(None, found):
            claims[claim.key].append(claim)
    if found := mirage.words(content):
        claims["words"].append(found)
    return [_topic(key, found) for key, found in claims.items()]


def _topic(key: str, claims: list[Claim]) -> Topic:
    measures = {claim.measure for claim in claims}
    caption = _CAPTIONS[key].format(measure=_MEASURES[claims[0].measure if claims else "rr"])
    if not claims:
        return Topic(key, _TITLES[key], MISSING, "", [], "", caption)
    levels = [claim.level for claim in claims]
    level = levels[0] if len(set(levels)) == 1 else PARTLY
    tally = f"{levels.count(SHOWN)} of {len(levels)} seeds" if len(levels) > 1 else ""
    pair = (spread(claims, "before"), spread(claims, "after")) if len(measures) == 1 else ()
    return Topic(key, _TITLES[key], level, tally, claims, " → ".join(filter(None, pair)), caption)
