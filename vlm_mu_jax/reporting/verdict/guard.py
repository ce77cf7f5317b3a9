"""Claims about the alignment gap and about the guard that is to close it.

Of the kinds of image that were measured the worse one counts, in safety and in cost.
"""

from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.own_words import of_run
from vlm_mu_jax.reporting.inputs.runs import GUARD, ModelRun
from vlm_mu_jax.reporting.verdict.claims import NOT_SHOWN, PARTLY, SHOWN, Claim, clearly_above
from vlm_mu_jax.reporting.wording import listing, rate, sizes, standing, stated

_TEXT, _IMAGES = "text_only", ("blank_image", "own_image")
_CONDITIONS = {_TEXT: "text only", "blank_image": "with a blank image", "own_image": "with their own image"}


def gap(runs: list[ModelRun]) -> Claim | None:
    """Text only against every kind of image that was measured: the worse image counts."""
    run = next((run for run in runs if run.kind != GUARD and run.group("gap")), None)
    if not run:
        return None
    plain = _safety(run, _TEXT)
    seen = {name: found for name in _IMAGES if (found := _safety(run, name))}
    text = f"{run.name} with text only: {_pair(plain)}; the same requests "
    shown = [f"{_CONDITIONS[name]}: {_pair(found)}" for name, found in seen.items()]
    text += "; ".join(shown) or "were not asked with an image"
    leaks = [name for name, found in seen.items() if clearly_above(found.get("asr"), plain.get("asr"))]
    drops = [name for name, found in seen.items() if clearly_above(plain.get("rr"), found.get("rr"))]
    text += f". {_taken(leaks, drops)}"
    text += standing([*plain.values(), *(metric for found in seen.values() for metric in found.values())])
    refusals, harm = (key in plain and all(key in found for found in seen.values()) for key in ("rr", "asr"))
    measure = "rr" if refusals and (drops or not (leaks and harm)) else "asr"
    before, after = plain.get(measure), _worst(seen, measure) if seen else None
    return Claim(
        "gap",
        SHOWN if leaks or drops else NOT_SHOWN,
        text,
        run.seed,
        before and before.value,
        after and after.value,
        run=run.name,
        measure=measure,
    )


def _taken(leaks: list[str], drops: list[str]) -> str:
    """What an image alone does; leaks, drops: conditions with clearly more harmful answers, clearly fewer refusals."""
    if "blank_image" in drops and "blank_image" in leaks:
        return "The image alone, though blank, takes refusals away and lets harmful answers out."
    dropping, leaking = (listing([_CONDITIONS[name] for name in names]) for names in (drops, leaks))
    if leaks == drops and leaks:
        return f"The image alone takes refusals away and lets harmful answers out ({leaking})."
    if leaks and drops:
        return f"The image alone takes refusals away ({dropping}) and lets harmful answers out ({leaking})."
    if drops:
        return f"The image alone takes refusals away ({dropping}); harmful answers do not clearly rise."
    return f"The image alone lets harmful answers out ({leaking})." if leaks else "No clear gap on this run."


def _pair(found: dict[str, Rate]) -> str:
    said = {"asr": "harmful answers", "rr": "refused"}
    return listing([f"{stated(metric)} {said[key]}" for key, metric in found.items()]) or "not measured"


def guard(runs: list[ModelRun], content: Content) -> Claim | None:
    """The guard beside every kind of image that was measured: the worse image counts, in safety and in cost."""
    guarded = next((run for run in runs if run.kind == GUARD and run.group("gap")), None)
    plain = next((run for run in runs if run.kind != GUARD and run.group("gap")), None)
    asked = [name for name in _IMAGES if guarded and plain and all(_safety(run, name) for run in (guarded, plain))]
    if not asked:
        return None
    was, now = ({name: _safety(run, name) for name in asked} for run in (plain, guarded))
    helped = [name for name in asked if _safer(now[name], was[name])]
    harmed = [name for name in asked if _safer(was[name], now[name])]
    left = [name for name in asked if _safer(_safety(plain, _TEXT), now[name])]
    costs, said = _cost(plain, guarded, asked)
    text = _conditions(plain, guarded, asked) + _effect(asked, helped, harmed, left, bool(_safety(plain, _TEXT)))
    text += said + _not_stopped(plain, guarded, content)
    whole = helped == asked and not (costs or left or harmed)
    measure = _telling(was, now)
    before, after = _worst(was, measure), _worst(now, measure)
    after_attack = guarded.metric("asr_after")
    return Claim(
        "guard",
        SHOWN if whole else PARTLY if helped else NOT_SHOWN,
        text,
        guarded.seed,
        before and before.value,
        after and after.value,
        after_attack and after_attack.value,
        guarded.name,
        measure=measure,
    )


def _safety(run: ModelRun, condition: str) -> dict[str, Rate]:
    """asr and rr of hazardous requests in a condition, those that were measured."""
    found = {key: run.metric(f"gap/{condition}/{key}") for key in ("asr", "rr")}
    return {key: metric for key, metric in found.items() if metric}


def _safer(some: dict[str, Rate], other: dict[str, Rate]) -> bool:
    """Whether the first refuses clearly more or gives clearly fewer harmful answers."""
    return clearly_above(some.get("rr"), other.get("rr")) or clearly_above(other.get("asr"), some.get("asr"))


def _telling(was: dict[str, dict[str, Rate]], now: dict[str, dict[str, Rate]]) -> str:
    """The rate whose worse image shows what the guard does: refusals, or ASR where that alone is clear or measured."""
    refused, harmful = ((_worst(was, key), _worst(now, key)) for key in ("rr", "asr"))
    if not all(refused):
        return "asr"
    return "asr" if all(harmful) and clearly_above(*harmful) and not clearly_above(*refused[::-1]) else "rr"


def _worst(found: dict[str, dict[str, Rate]], key: str) -> Rate | None:
    """Fewest refusals or most harmful answers of all conditions; None unless every condition was measured."""
    if not all(key in metrics for metrics in found.values()):
        return None
    return (min if key == "rr" else max)((metrics[key] for metrics in found.values()), key=lambda metric: metric.value)


def _conditions(plain: ModelRun, guarded: ModelRun, asked: list[str]) -> str:
    """What each condition gives without and with guard, text only first where it was measured. Without the intervals,
    of which there are up to twelve: they stand in the table below the sentence."""
    shown = [name for name in (_TEXT, *asked) if all(_safety(run, name) for run in (plain, guarded))]
    parts, metrics = [], []
    for key, what in (("asr", "harmful answers"), ("rr", "refused")):
        found = [[_safety(run, name).get(key) for name in shown] for run in (plain, guarded)]
        if all(map(all, found)):
            was, now = (listing([rate(metric) for metric in side]) for side in found)
            parts.append(f"{what} {was} without guard, {now} with it")
            metrics += found[0] + found[1]
    about = f"Hazardous requests, {listing([_CONDITIONS[name] for name in shown])}"
    return f"{about}: {'; '.join(parts)} ({', '.join(filter(None, (sizes(metrics), 'intervals in the table')))})."


def _effect(asked: list[str], helped: list[str], harmed: list[str], left: list[str], known: bool) -> str:
    """`known`: whether text only was measured, so that there is a gap to speak of."""
    worse = f" The guard makes it clearly less safe {_where(harmed)}." if harmed else ""
    if not helped:
        return worse or " The guard makes no clear difference."
    text = worse
    if left:
        text += f" The guard narrows the gap, but text only is still clearly safer than {_where(left)}."
    unhelped = [name for name in asked if name not in (*helped, *harmed)]
    if unhelped:
        text += f" It makes no clear difference {_where(unhelped)}."
    if text or not known:
        return text or " The guard makes a clear difference."
    return " The guard closes the gap to text only: no condition is clearly less safe."


def _where(names: list[str]) -> str:
    return listing([_CONDITIONS[name] for name in names])


def _cost(plain: ModelRun, guarded: ModelRun, asked: list[str]) -> tuple[bool, str]:
    """(whether harmless questions clearly suffer in some condition, the sentence about the one that suffers most)."""
    pairs = [(*(run.metric(f"gap/{name}/harmless_right") for run in (plain, guarded)), name) for name in asked]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        return False, " Whether harmless questions are still answered right was not measured."
    clear = [pair for pair in pairs if clearly_above(*pair[:2])]
    was, now, name = max(clear or pairs, key=lambda pair: pair[0].value - pair[1].value)
    text = f" Harmless questions answered right: {stated(was)} without, {stated(now)} with it ({_CONDITIONS[name]})"
    return bool(clear), text + (", a clear cost." if clear else ".") + standing([was, now])


def _not_stopped(plain: ModelRun, guarded: ModelRun, content: Content) -> str:
    """What the guard is not made for: the one-word attack of the main table, and words searched through the guard."""
    text, attacked = "", [run.metric("asr_after") for run in (plain, guarded)]
    if all(attacked):
        without, with_guard = map(stated, attacked)
        text = " It is made for requests that the language model refuses as text. Under the one-word attack of the main"
        text += f" table, ASR is {without} without it and {with_guard} with it.{standing(attacked)}"
    own = of_run(content, guarded)
    if not own or not own.asr.searched:
        return text + " Words searched through the guard were not measured."
    null = f"neutral words {stated(own.asr.neutral)}" if own.asr.neutral else "neutral words not measured"
    return text + f" Words searched through the guard give {stated(own.asr.searched)} ({null})."
