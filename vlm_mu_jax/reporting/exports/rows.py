"""The answers of a run as flat rows, which every export shares."""

from typing import Any

from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.runs import ModelRun
from vlm_mu_jax.reporting.page.browser import primary_judge

HIDDEN = "(text of real data; bin/report --show_text includes it)"


def answer_rows(content: Content, run: ModelRun) -> list[dict[str, Any]]:
    """One row per answer of a run, without nesting.

    `label` is that of the judge whose labels the page shows. `question` and `answer` are None where the text
    is that of real data and `--show_text` is not given.
    """
    readable, judge = content.readable(run), primary_judge(run)
    rows = []
    for answer in run.answers:
        condition, labels = answer.get("condition") or {}, answer.get("labels") or {}
        rows.append(
            {
                "run": run.label,
                "set": answer["set"],
                "id": answer["id"],
                "attack": condition.get("attack"),
                "position": condition.get("position"),
                "word": condition.get("word") if readable else None,
                "shot": condition.get("shot"),
                "turn": condition.get("turn", 0),
                "image": condition.get("image"),
                "image_id": answer.get("image_id"),
                "prompt_sha": answer.get("prompt_sha"),
                "question": answer.get("question") if readable else None,
                "answer": answer.get("answer") if readable else None,
                "tokens": answer.get("tokens"),
                "judge": judge,
                "label": (labels.get(judge) or {}).get("label"),
                "probability": (labels.get(judge) or {}).get("probability"),
            }
        )
    return rows
