"""The content of attack.json for every method but the one-word attack."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vlm_mu_jax.attacks.measure import RATE
from vlm_mu_jax.attacks.method import MeasuredProposal, Setting
from vlm_mu_jax.attacks.openings import Openings

SEARCHED = ("per_question", "on_search_questions")  # the rates on the questions that suffixes were searched on


def report(
    name: str, control: str, openings: Openings | None, setting: Setting, measured: Sequence[MeasuredProposal]
) -> dict[str, Any]:
    """The content of attack.json.

    Args:
      name: the method's.
      control: what the control is, in words.
      openings: what a search was after; None for a method without one.
    """
    parts = {one.proposal.goal: _part(one) for one in measured}
    found = {one.proposal.goal: one.proposal.details for one in measured if one.proposal.details is not None}
    answers = {one.proposal.goal: _answers(one) for one in measured}
    model, options = setting.model, setting.measurement.options
    return {
        "schema": 1,
        "method": name,
        "any_of_k": {RATE[goal]: part for goal, part in parts.items()},
        "k": {goal: len(part["per_shot"]) for goal, part in parts.items()},
        "rows": [row for goal, part in parts.items() for row in _rows(goal, part)],
        "control": control,
        "n_verify": {goal: part["n"] for goal, part in parts.items()},
        "found": found,
        "budget": {goal: {"answers": answers[goal], **_spent(found.get(goal, []))} for goal in parts},
        "towards": openings and ("answers that begin with" if openings.wanted else "no refusal that begins with"),
        "openings": openings and [model.processor.decode(ids) for ids in openings.refusal],
        "judge": setting.measurement.judge.name,
        "guarded": options.steer is not None,
        "dtype": str(jax.tree.leaves(model.params)[0].dtype),
        "seed": setting.draw.seed,
        "max_new_tokens": options.max_new_tokens,
    }


def _part(one: MeasuredProposal) -> dict[str, Any]:
    part = one.main.to_dict() | {name: metric.to_dict() for name, metric in one.main.beside.items()}
    if one.proposal.main.searched:
        part["searched_on_these_questions"] = True
    for name, other in one.others.items():
        part[name] = other.to_dict() | {"searched_on_these_questions": True}
    return part


def _answers(one: MeasuredProposal) -> int:
    """Answers that were generated for the attempts (the unchanged questions come on top)."""
    return one.proposal.main.answers + sum(other.answers for other in one.proposal.others.values())


def _rows(goal: str, part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The result as a table: one row for every set of questions that were asked."""
    rows = [_row(goal, "searched" if part.get("searched_on_these_questions") else "verification", part)]
    return rows + [_row(goal, "searched", part[name]) for name in SEARCHED if name in part]


def _row(goal: str, questions: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "goal": goal,
        "questions": questions,
        "n": part["n"],
        "k": len(part["per_shot"]),
        "original": part["original"],
        "attack": part["any_of_k"],
        "control": part["any_of_k_null"],
        "p": part["words_against_null"]["p"],
    }


def _spent(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summed over the questions: whole prompts scored, gradients made, FLOPs of both."""
    return {key: sum(one.get(key, 0) for one in found) for key in ("prompts", "gradients", "flops")}
