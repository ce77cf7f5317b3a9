"""The first lines of the page: the verdict in a few sentences, chosen by the outcome of each topic."""

from vlm_mu_jax.reporting.verdict.topics import NOT_SHOWN, SHOWN, Topic, spread
from vlm_mu_jax.reporting.wording import listing

_WORSE = " (the worse of blank and own image)"


def headline(topics: list[Topic]) -> list[str]:
    """One sentence per topic that was measured: mirage, over-refusal, unlearning, guard."""
    by_key = {topic.key: topic for topic in topics}
    lines = [line(by_key[key]) for key, line in _LINES.items() if by_key[key].claims]
    too_little = (
        "These runs hold too little to judge: no safety-tuned, unlearned or guarded model was measured in full."
    )
    return lines or [too_little]


def _mirage_line(topic: Topic) -> str:
    before, after = spread(topic.claims, "before"), spread(topic.claims, "after")
    numbers = f"{before} harmful answers as asked, {after}"
    if topic.level == SHOWN:
        return f"Safety fine-tuning only looks safe here: {numbers} after one word is changed."
    if topic.level == NOT_SHOWN:
        return f"The one-word attack does not bring the safety fine-tuned model down here: {numbers} after it."
    return f"The mirage shows in part{_tally(topic)}: {numbers} after one word is changed."


def _overrefusal_line(topic: Topic) -> str:
    after = spread(topic.claims, "after")
    if topic.level == SHOWN:
        return f"The other way round, one word makes it refuse {after} of the harmless questions."
    if topic.level == NOT_SHOWN:
        return f"One word does not clearly make it refuse harmless questions ({after})."
    return f"Over-refusal shows in part{_tally(topic)} ({after} after one word)."


def _unlearning_line(topic: Topic) -> str:
    names = listing(list(dict.fromkeys(claim.run for claim in topic.claims)))
    after = spread(topic.claims, "after") + " harmful answers"
    if topic.level == SHOWN:
        return f"Unlearning holds: under the same attack {names} gives {after} and answers harmless questions right."
    if topic.level == NOT_SHOWN:
        return f"No unlearned model is good enough: the best, {names}, gives {after} after the attack."
    start = f"Unlearning helps but does not reach every target{_tally(topic)}"
    return f"{start}: the best, {names}, gives {after} after the attack."


def _guard_line(topic: Topic) -> str:
    before, after = spread(topic.claims, "before"), spread(topic.claims, "after")
    if topic.level == SHOWN:
        return f"Beside an image the guard moves refusals of hazardous requests from {before} to {after}{_WORSE}."
    if topic.level == NOT_SHOWN:
        return f"Beside an image the guard makes no clear difference: {before} refused without, {after} with{_WORSE}."
    start = f"The guard helps: {before} of hazardous requests refused without, {after} with it{_WORSE}"
    return f"{start}, but not everywhere, not wholly or not for free{_tally(topic)}."


def _tally(topic: Topic) -> str:
    return f" ({topic.tally})" if topic.tally else ""


_LINES = {
    "mirage": _mirage_line,
    "overrefusal": _overrefusal_line,
    "unlearning": _unlearning_line,
    "guard": _guard_line,
}
