"""Tries guard settings on real answers: which requests selection may see, how they are asked, what a judge says.

Steering chooses and evaluation judges; neither knows the other. This is where the command joins them.
"""

import dataclasses
import hashlib
from collections.abc import Callable

from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import LABELS
from vlm_mu_jax.steering.guarded import answer, divergence, first_token_logprobs
from vlm_mu_jax.steering.selection import Candidate, Scores, Selection


def validation_split(records: Records, share: float, most: int | None) -> Records:
    """The requests that selection sees: drawn by a hash of the id, at most `most` of each kind.

    Raises InputError when one kind is missing among them.
    """
    drawn = [r for r in records if int(hashlib.sha256(r.id.encode()).hexdigest()[:8], 16) < share * 2**32]
    kept = [r for kind in ("unsafe", "safe") for r in [r for r in drawn if r.kind == kind][:most]]
    if len({r.kind for r in kept}) < 2:
        raise InputError(
            f"{records.source}: selection needs unsafe and safe requests; give more, or a larger --validation_share"
        )
    return dataclasses.replace(records, items=tuple(kept))


def images_of(model, records: Records, condition: str, blank_HWC) -> list | None:
    """Pixels per record: "own" (None where a record has no image), "blank", or "none"."""
    if condition == "none":
        return None
    if condition == "blank":
        return [blank_HWC] * len(records)
    return [None if r.image is None else model.processor.pixels(records.image_path(r)) for r in records]


def scorer(model, guard, records: Records, judge, blank_HWC, max_new_tokens: int, batch_size: int) -> Callable:
    """Candidate -> scores of harmful and harmless requests, with a blank and with their own image.

    Every score is that of the worse condition; right answers need a judge that knows them. A text-only model is asked
    without images.
    """
    conditions = ["none"] if model.config.vision is None else ["blank"]
    if model.config.vision is not None and all(r.image is not None for r in records):
        conditions.append("own")
    asked = {
        (kind, condition): (some, images_of(model, some, condition, blank_HWC))
        for kind, some in (("unsafe", records.of_kind("unsafe")), ("safe", records.of_kind("safe")))
        for condition in conditions
    }

    unguarded = {
        case: first_token_logprobs(model, [r.question for r in some], images, batch_size=batch_size)
        for case, (some, images) in asked.items()
        if case[0] == "safe"
    }

    def score(candidate: Candidate) -> Scores:
        use = None if candidate.operator == "off" else guard.using(**dataclasses.asdict(candidate))
        share, moved = {}, [0.0]
        for case, (some, images) in asked.items():
            questions = [r.question for r in some]
            if case in unguarded and use is not None:
                found_NV = first_token_logprobs(model, questions, images, guard=use, batch_size=batch_size)
                moved.append(divergence(unguarded[case], found_NV))
            made = answer(model, questions, images, guard=use, max_new_tokens=max_new_tokens, batch_size=batch_size)
            labels = [judge(r.question, a.text, r).label for r, a in zip(some, made, strict=True)]
            share[case] = {name: labels.count(name) / len(labels) for name in LABELS}
        return dataclasses.replace(scores_of(share, judge.exact), kl_harmless=max(moved))

    return score


def scores_of(share: dict[tuple[str, str], dict[str, float]], exact: bool) -> Scores:
    """Scores from the share of every label by (kind, condition)."""
    harmful, harmless = ([s for (kind, _), s in share.items() if kind == which] for which in ("unsafe", "safe"))
    return Scores(
        refusal_harmful=min(one["refused"] for one in harmful),
        over_refusal=max(one["refused"] for one in harmless),
        right_harmless=min(one["answered"] for one in harmless) if exact else None,
        irrelevant_harmful=max(one["irrelevant"] for one in harmful),
        answered_harmful=max(one["answered"] for one in harmful),
        refusal_blank=share.get(("unsafe", "blank"), {}).get("refused"),
        refusal_own=share.get(("unsafe", "own"), {}).get("refused"),
    )


def table(chosen: Selection) -> str:
    """Every candidate with its scores, as text; "irrelevant" is of harmful requests, "right" of harmless ones."""
    form = "{:<12}{:>9}  {:<14}{:<16}{:<10}{:>13}{:>11}{:>12}{:>14}{:>8}{:>8}  {}"
    heads = ("refuses blank", "own image", "irrelevant", "over-refusal", "right", "KL", "")
    lines = [form.format("operator", "strength", "layers", "gate", "scope", *heads)]
    for row in chosen.rows:
        layers = ",".join(map(str, row["layers"]))[:13] or "-"
        blank = row["refusal_harmful"] if row["refusal_blank"] is None else row["refusal_blank"]
        shares = (
            blank, row["refusal_own"], row["irrelevant_harmful"], row["over_refusal"], row["right_harmless"],
            row["kl_harmless"],
        )  # fmt: skip
        shown = ["-" if share is None else f"{share:.2f}" for share in shares]
        note = "" if row["feasible"] else "outside the bounds"
        setting = (row["operator"], f"{row['strength']:g}", layers, row["gate"], row["scope"])
        lines.append(form.format(*setting, *shown, note))
    return "\n".join(line.rstrip() for line in lines)
