"""The answers as data for the page's browser: compact, escaped, and without the text of real data unless asked for."""

import json
from collections.abc import Hashable
from typing import Any

from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.runs import ModelRun

SET_NAMES = {
    "unsafe_before": "unsafe, as asked",
    "unsafe_after": "unsafe, after one word",
    "unsafe_null": "unsafe, neutral word",
    "unsafe_openings": "unsafe, every opening",
    "harmless_before": "harmless, as asked",
    "harmless_after": "harmless, after one word",
    "harmless_openings": "harmless, every opening",
    "gap_text_only": "gap: text only",
    "gap_blank_image": "gap: blank image",
    "gap_own_image": "gap: own image",
    "utility": "utility",
}
_FIRST_SET = "unsafe_after"  # where the story is
_BLANK = "blank:"  # image_id of a blank image: "blank:white"
_JUDGES_FIRST = ("oracle",)  # an exact judge goes before any other

SHOWN, CONCEALED, ABSENT = "shown", "concealed", "absent"


class _Index:
    """Numbers for repeated values, so that each stands in the page once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def __getitem__(self, value: Hashable) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self.values)
            self.values.append(value)
        return self._numbers[value]


def payload(content: Content, first: ModelRun | None = None, second: ModelRun | None = None) -> dict[str, Any] | None:
    """The data of the answers browser, or None when no run has answers.

    Args:
      first, second: the runs it opens with, side by side.

    Returns:
      "rows": [run, set, id, word, label, question, answer, image] per answer. All but the answer are numbers into the
        lists of the same name.
      "pictures": the images that are in the page, by the number of the image.
      "text": SHOWN (nonsense words), CONCEALED until the reader asks (real data with show_text), or ABSENT (real data).
        When absent, questions and answers are empty strings and there are no pictures.
    """
    if not any(run.answers for run in content.runs):
        return None
    runs, sets, ids, words, labels, questions, images = (_Index() for _ in range(7))
    rows = []
    for run in content.runs:
        judge, readable = primary_judge(run), content.readable(run)
        for answer in run.answers:
            condition = answer.get("condition") or {}
            row = [
                runs[run.label],
                sets[_set_name(answer)],
                ids[str(answer.get("id", ""))],
                words[str(condition.get("word") or "")],
            ]
            row += [labels[_label(answer, judge)], questions[str(answer.get("question", "")) if readable else ""]]
            row.append(str(answer.get("answer", "")) if readable else "")
            rows.append([*row, images[_image_name(answer, content.images if readable else {})]])
    asked = [{_key(row) for row in rows if row[0] == runs[run.label]} if run else set() for run in (first, second)]
    start = {"run": runs[first.label]} if asked[0] else {}
    if any(sets.values[key[0]] == SET_NAMES[_FIRST_SET] for key in asked[0]):
        start["set"] = sets[SET_NAMES[_FIRST_SET]]
    if asked[0] & asked[1]:  # models attacked with words of their own share no question after the attack
        start["beside"] = runs[second.label]
    return {
        "text": text_state(content),
        "start": start,
        "runs": runs.values,
        "sets": sets.values,
        "ids": ids.values,
        "words": words.values,
        "labels": labels.values,
        "questions": questions.values,
        "images": [name if name.startswith(_BLANK) else "" for name in images.values],
        "pictures": {i: content.images[name] for i, name in enumerate(images.values) if name in content.images},
        "rows": rows,
    }


def _image_name(answer: dict[str, Any], pictures: dict[str, str]) -> str:
    """The image_id of an answer where the page can say something about it: a blank image, or one it holds."""
    name = str(answer.get("image_id") or "")
    return name if name.startswith(_BLANK) or name in pictures else ""


def _key(row: list[Any]) -> tuple:
    """What makes two rows answers to the same question: set, id and attack word."""
    return tuple(row[1:4])


def text_state(content: Content) -> str:
    """How the page treats the text of answers: shown, concealed until the reader asks, or absent from the file."""
    if all(run.miniature for run in content.runs if run.answers):
        return SHOWN
    return CONCEALED if content.show_text else ABSENT


def to_json(value: Any) -> str:
    """JSON that is safe inside a <script> element: no character that could end it or start a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate cannot be written as UTF-8; it can only stem from a damaged answer.
    return text.encode("utf-8", "replace").decode("utf-8")


def primary_judge(run: ModelRun) -> str | None:
    """The judge whose labels the page shows: the one the run names, else an exact one, else the first."""
    named = run.raw.get("judge")
    judges = list(dict.fromkeys(name for row in run.answers for name in (row.get("labels") or {})))
    return next((name for name in (named, *_JUDGES_FIRST, *judges) if name in judges), None)


def _set_name(answer: dict[str, Any]) -> str:
    name = str(answer.get("set", ""))
    return SET_NAMES.get(name, name.replace("_", " "))


def _label(answer: dict[str, Any], judge: str | None) -> str:
    verdict = (answer.get("labels") or {}).get(judge)
    if not verdict or answer.get("set") == "utility":  # compared with a reference, not judged
        return "not judged"
    return str(verdict.get("label") or ("error" if verdict.get("error") else "abstained"))
