"""Utility by the official rules of each public set: `score` gives the numbers that papers print, with intervals.

`per_question` gives what a paired test needs. Which variant of a rule was used is the name of the number.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_mu_jax.data.readers.utility_sets import MME_COGNITION, MME_PERCEPTION
from vlm_mu_jax.data.records import Item
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.utility import choice, mmvet, rouge, vqa, yes_no
from vlm_mu_jax.evaluation.utility.scores import Score, by_kind, mean, share

Items = Mapping[str, Item]
Scores = dict[str, Any]  # name -> Score, or a dict of them
_HEADLINE = {"textvqa": "vqa_m4c"}  # the variant a set's published numbers use, where it is not vqa_official


def score(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    """The numbers of the set `name` (a name of `data/readers/utility_sets.py`), by their names.

    Raises KeyError for another set or an answer whose id `items` has not.
    """
    return _SCORERS[_family(name)](name, answers, items)


def per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    """Question -> its score in 0..1 by the set's headline number.

    MMBench has one score per group of rotations. Of MM-Vet only graded questions have one.
    """
    return _PER_QUESTION[_family(name)](name, answers, items)


def headline(name: str) -> str:
    """The number of `score` that stands for the set where only one can be shown."""
    family = _family(name)
    if family == "vqa":
        return _HEADLINE.get(name, "vqa_official")
    return {"mmbench": "accuracy_circular", "mme": "perception", "mmvet": "grade", "clear": "rouge_l"}.get(
        family, "accuracy"
    )


def _family(name: str) -> str:
    if name in ("vqav2", "textvqa", "vizwiz"):
        return "vqa"
    return name.partition("_")[0]  # pope_random, scienceqa_img


def _vqa_per_question(name: str, answers: Sequence[Answer], items: Items, variant: str = "") -> dict[str, float]:
    rule = vqa.VARIANTS[variant or headline(name)]
    return {a.id: rule(a.answer, items[a.id].details["answers"]) for a in answers}


def _vqa(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    found: Scores = {
        variant: mean(list(_vqa_per_question(name, answers, items, variant).values())) for variant in vqa.VARIANTS
    }
    kinds = {a.id: items[a.id].details.get("type", "") for a in answers}
    if any(kinds.values()):
        found["by_answer_type"] = by_kind(_vqa_per_question(name, answers, items), kinds)
    return found


def _chosen(rule: Callable, answers: Sequence[Answer], items: Items) -> dict[str, int | None]:
    return {a.id: rule(a.answer, items[a.id].details["choices"]) for a in answers}


def _scienceqa_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    chosen = _chosen(choice.scienceqa, answers, items)
    return {key: float(index == items[key].details["label"]) for key, index in chosen.items()}


def _scienceqa(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    right = _scienceqa_per_question(name, answers, items)
    chosen = _chosen(choice.scienceqa, answers, items)
    return {
        "accuracy": mean(list(right.values())),
        "img_accuracy": mean([value for key, value in right.items() if items[key].image is not None]),
        "unread": share([index is None for index in chosen.values()]),
    }


def _mmbench_right(answers: Sequence[Answer], items: Items) -> dict[str, bool]:
    return {key: i == items[key].details["label"] for key, i in _chosen(choice.mmbench, answers, items).items()}


def _mmbench_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    """CircularEval: a question is right when every one of its rotations is."""
    groups: dict[str, bool] = {}
    for key, right in _mmbench_right(answers, items).items():
        groups[items[key].group] = groups.get(items[key].group, True) and right
    return {key: float(right) for key, right in groups.items()}


def _mmbench(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    right = _mmbench_right(answers, items)
    plain = [value for key, value in right.items() if not items[key].details["rotation"]]
    found = {
        "accuracy": share(plain),
        "unread": share([index is None for index in _chosen(choice.mmbench, answers, items).values()]),
    }
    if len(plain) < len(right):  # a file without rotations has no circular score
        found["accuracy_circular"] = mean(list(_mmbench_per_question(name, answers, items).values()))
    return found


def _gqa_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    """Exact match after LLaVA's clean-up (haotian-liu/LLaVA@c121f04:scripts/convert_gqa_for_eval.py)."""
    return {a.id: float(a.answer.rstrip(".").lower() == items[a.id].answer) for a in answers}


def _gqa(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    right = _gqa_per_question(name, answers, items)
    kinds = {key: "open" if items[key].details["structural"] == "query" else "binary" for key in right}
    return {"accuracy": mean(list(right.values())), **by_kind(right, kinds)}


def _pope_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    return {a.id: float(yes_no.pope(a.answer) == items[a.id].details["label"]) for a in answers}


def _pope(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    """Upstream's numbers, and `unread`: the answers that its rule takes for "yes" although they do not say yes."""
    said = [yes_no.pope(a.answer) for a in answers]
    found = yes_no.pope_scores(said, [items[a.id].details["label"] for a in answers])
    return found | {"unread": share([yes_no.pope_unread(a.answer) for a in answers])}


def _mme_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    return {a.id: float(yes_no.mme(a.answer) == items[a.id].details["label"]) for a in answers}


def _mme(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    right: dict[str, list[bool]] = {}
    for key, value in _mme_per_question(name, answers, items).items():
        right.setdefault(items[key].group, []).append(bool(value))
    right = {group: both for group, both in right.items() if len(both) == 2}  # acc_plus is about pairs
    categories = {group: group.partition("/")[0] for group in right}
    return {
        **yes_no.mme_totals(right, categories, {"perception": MME_PERCEPTION, "cognition": MME_COGNITION}),
        "unread": share([yes_no.mme(a.answer) == "other" for a in answers]),
        "by_category": yes_no.mme_scores(right, categories),
    }


def _mmvet_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    """The grade of each answer, of several grading models their mean."""
    found = {a.id: mmvet.grades(a.labels) for a in answers}
    return {key: sum(grades) / len(grades) for key, grades in found.items() if grades}


def _mmvet(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    """Without a grading model there is no grade: `ungraded` says so."""
    grades = _mmvet_per_question(name, answers, items)
    capabilities = sorted({one for key in grades for one in items[key].details["capability"]})
    return {
        "grade": mean(list(grades.values())),
        "ungraded": share([a.id not in grades for a in answers]),
        "by_capability": {
            one: mean([value for key, value in grades.items() if one in items[key].details["capability"]])
            for one in capabilities
        },
    }


def _mllmu_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    return {key: float(right) for key, right in _mmbench_right(answers, items).items()}


def _mllmu(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    """Right options, of questions with a picture and without; read as MMBench's are."""
    right = _mllmu_per_question(name, answers, items)
    return {
        "accuracy": mean(list(right.values())),
        "unread": share([index is None for index in _chosen(choice.mmbench, answers, items).values()]),
        "by_modality": by_kind(right, {key: items[key].category for key in right}),
    }


def _mmsafeaware_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    return {a.id: float(yes_no.mmsafeaware(a.answer, items[a.id].details["label"])) for a in answers}


def _mmsafeaware(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    """Right answers of all and by upstream's three parts, and `unread`: those that do not begin with yes or no."""
    right = _mmsafeaware_per_question(name, answers, items)
    return {
        "accuracy": mean(list(right.values())),
        **by_kind(right, {key: items[key].category for key in right}),
        "unread": share([yes_no.mmsafeaware_unread(a.answer) for a in answers]),
    }


def _clear_per_question(name: str, answers: Sequence[Answer], items: Items) -> dict[str, float]:
    """Raises InputError without the package `rouge_score`."""
    return {a.id: rouge.rouge_l(items[a.id].answer, a.answer) for a in answers}


def _clear(name: str, answers: Sequence[Answer], items: Items) -> Scores:
    found = _clear_per_question(name, answers, items)
    return {
        "rouge_l": mean(list(found.values())),
        "by_modality": by_kind(found, {key: items[key].category for key in found}),
    }


_SCORERS: dict[str, Callable[[str, Sequence[Answer], Items], Scores]] = {
    "vqa": _vqa,
    "scienceqa": _scienceqa,
    "mmbench": _mmbench,
    "gqa": _gqa,
    "pope": _pope,
    "mme": _mme,
    "mmvet": _mmvet,
    "mllmu": _mllmu,
    "mmsafeaware": _mmsafeaware,
    "clear": _clear,
}
_PER_QUESTION: dict[str, Callable[[str, Sequence[Answer], Items], dict[str, float]]] = {
    "vqa": _vqa_per_question,
    "scienceqa": _scienceqa_per_question,
    "mmbench": _mmbench_per_question,
    "gqa": _gqa_per_question,
    "pope": _pope_per_question,
    "mme": _mme_per_question,
    "mmvet": _mmvet_per_question,
    "mllmu": _mllmu_per_question,
    "mmsafeaware": _mmsafeaware_per_question,
    "clear": _clear_per_question,
}
__all__ = ["Score", "headline", "per_question", "score"]
