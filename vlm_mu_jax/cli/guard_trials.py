"""Tries guard settings on real answers: which requests selection may see, how they are asked, what a judge says.

Steering chooses and evaluation judges; neither knows the other. This is where the command joins them.
"""

import dataclasses
import hashlib
from collections.abc import Callable

from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.guarded import answer
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
    """Candidate -> scores: harmful requests with a blank image, harmless ones with a blank and with their own image.

    Over-refusal and right answers are those of the worse condition; right answers need a judge that knows them. A
    text-only model is asked without images.
    """
    harmful, harmless = records.of_kind("unsafe"), records.of_kind("safe")
    conditions = ["none"] if model.config.vision is None else ["blank"]
    if model.config.vision is not None and all(r.image is not None for r in harmless):
        conditions.append("own")
    cases = [(harmful, conditions[0]), *((harmless, condition) for condition in conditions)]
    asked = [(some, images_of(model, some, condition, blank_HWC)) for some, condition in cases]

    def score(candidate: Candidate) -> Scores:
        use = None if candidate.operator == "off" else guard.using(**dataclasses.asdict(candidate))
        labels = []
        for some, images in asked:
            questions = [r.question for r in some]
            made = answer(model, questions, images, guard=use, max_new_tokens=max_new_tokens, batch_size=batch_size)
            labels.append([judge(r.question, a.text, r).label for r, a in zip(some, made, strict=True)])
        share = [{name: one.count(name) / len(one) for name in ("refused", "answered")} for one in labels]
        return Scores(
            refusal_harmful=share[0]["refused"],
            over_refusal=max(one["refused"] for one in share[1:]),
            right_harmless=min(one["answered"] for one in share[1:]) if judge.exact else None,
        )

    return score


def table(chosen: Selection) -> str:
    """Every candidate with its scores, as text."""
    form = "{:<12}{:>9}  {:<14}{:<16}{:>16}{:>14}{:>8}  {}"
    lines = [form.format("operator", "strength", "layers", "gate", "refuses harmful", "over-refusal", "right", "")]
    for row in chosen.rows:
        right = "-" if row["right_harmless"] is None else f"{row['right_harmless']:.2f}"
        layers = ",".join(map(str, row["layers"]))[:13] or "-"
        note = "" if row["feasible"] else "outside the bounds"
        refusals = (f"{row['refusal_harmful']:.2f}", f"{row['over_refusal']:.2f}")
        lines.append(form.format(row["operator"], f"{row['strength']:g}", layers, row["gate"], *refusals, right, note))
    return "\n".join(line.rstrip() for line in lines)
