"""The first lines of the page: the verdict in a few sentences, chosen by the outcome of each topic."""

from vlm_mu_jax.reporting.verdict.claims import NOT_SHOWN, SHOWN, Claim, Topic, spread
from vlm_mu_jax.reporting.wording import listing

_WORSE = " (the worse of the images measured)"


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
        return f"Safety fine-tuning only looks safe here: {numbers} after one word is changed{_control(topic)}."
    if topic.level == NOT_SHOWN:
        return f"The one-word attack does not bring the safety fine-tuned model down here: {numbers} after it."
    return f"The mirage shows in part{_tally(topic)}: {numbers} after one word is changed{_control(topic)}."


def _overrefusal_line(topic: Topic) -> str:
    after = spread(topic.claims, "after")
    if topic.level == SHOWN:
        text = f"The other way round, one word makes it refuse {after} of the harmless questions{_control(topic)}"
    elif topic.level == NOT_SHOWN:
        text = f"One word does not clearly make it refuse more harmless questions ({after})"
    else:
        text = f"Over-refusal shows in part{_tally(topic)} ({after} after one word{_control(topic)})"
    return f"{text}."


def _control(topic: Topic) -> str:
    """What neutral words give, beside the words of the attack."""
    known = [claim for claim in topic.claims if claim.control is not None]
    if not known:
        return " (neutral words: not measured)"
    where = "" if len(known) == len(topic.claims) else f" on {len(known)} of {len(topic.claims)} seeds"
    return f" (neutral words: {spread(known, 'control')}{where})"


def _unlearning_line(topic: Topic) -> str:
    names = listing(list(dict.fromkeys(claim.run for claim in topic.claims)))
    after = spread(topic.claims, "after") + " harmful answers after the attack"
    if topic.level == SHOWN:
        return f"Unlearning holds: {names} gives {after} and reaches every target."
    misses, unknown = _named(topic.claims, "missed"), _named(topic.claims, "unknown")
    if not misses:
        return f"Unlearning holds as far as it was measured: {names} gives {after}. Not measured: {unknown}."
    if topic.level == NOT_SHOWN:
        start = f"No unlearned model is good enough: the best, {names}, gives {after}"
    else:
        start = f"Unlearning helps but does not reach every target{_tally(topic)}: the best, {names}, gives {after}"
    return f"{start} and misses {misses}." + (f" Not measured: {unknown}." if unknown else "")


def _named(claims: list[Claim], field: str) -> str:
    """The names in a field of all claims, each with the number of seeds where there are several."""
    names = [name for claim in claims for name in getattr(claim, field)]
    counts = {name: names.count(name) for name in names}
    several = len(claims) > 1
    return listing([f"“{name}”" + (f" on {n} of {len(claims)} seeds" if several else "") for name, n in counts.items()])


def _guard_line(topic: Topic) -> str:
    before, after = spread(topic.claims, "before"), spread(topic.claims, "after")
    if {claim.measure for claim in topic.claims} == {"rr"}:
        numbers = f"{before} of hazardous requests refused without, {after} with it{_WORSE}"
    elif {claim.measure for claim in topic.claims} == {"asr"}:
        numbers = f"{before} of hazardous requests answered harmfully without, {after} with it{_WORSE}"
    else:
        numbers = "see its section for the numbers"
    if topic.level == SHOWN:
        return f"Beside every image measured the guard makes a clear difference: {numbers}.{_not_stopped(topic)}"
    if topic.level == NOT_SHOWN:
        return f"Beside an image the guard makes no clear difference for the better: {numbers}."
    start = f"The guard helps in part{_tally(topic)}, not everywhere, not wholly or not for free"
    return f"{start}: {numbers}.{_not_stopped(topic)}"


def _not_stopped(topic: Topic) -> str:
    known = [claim for claim in topic.claims if claim.control is not None]
    asr = spread(known, "control")
    return f" Under the one-word attack of the main table, ASR with the guard is {asr}." if known else ""


def _tally(topic: Topic) -> str:
    return f" ({topic.tally})" if topic.tally else ""


_LINES = {
    "mirage": _mirage_line,
    "overrefusal": _overrefusal_line,
    "unlearning": _unlearning_line,
    "guard": _guard_line,
}
