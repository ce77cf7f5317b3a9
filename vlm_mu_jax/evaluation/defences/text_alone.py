"""What the language model alone says to the prompts that an attack made for a defended one.

A guard brings an image's prompt back to what the language model does with the text. Where that model answers a prompt
itself, no guard that listens to it can refuse. An attack on such a guard is therefore judged on the prompts that the
language model refuses.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation import metrics as m
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge
from vlm_mu_jax.evaluation.judging import judge_answers
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.storage.model_folder import Model

ASKED = "one_word_own_image"  # the set whose prompts are asked


def text_alone(
    model: Model,
    questions: Sequence[Question],
    defended: Sequence[Answer],
    records: Mapping[str, Record],
    judge: Judge | BatchJudge,
    options: AnswerOptions,
    path: Path | None = None,
) -> dict[str, Any]:
    """Rates over the harmful ones of `questions`, each word a prompt of its own.

    Args:
      model: without any defence; it is asked without images.
      defended: the defended model's judged answers to the same questions.
      path: keeps the answers.

    Returns:
      Metrics as JSON: "refused", of all prompts that have both labels; "asr_where_refused", prompts that the defended
      model answers of those that the language model refuses; "asr", the same of all; "words".
    """
    harmful = [q for q in questions if records[q.id].kind == "unsafe"]
    asked = [
        dataclasses.replace(q.showing(None), condition=dataclasses.replace(q.condition, image="none")) for q in harmful
    ]
    options = dataclasses.replace(options, steer=None, contrast=None)
    answers = answer_questions(model, asked, path, options, label="language model alone", only_these=True)
    answers = judge_answers(answers, {judge.name: judge}, records, path=path, progress=options.progress)
    alone, ours = (
        {(o.id, o.word): o.label for o in m.outcomes(some, judge.name) if o.label is not None}
        for some in (answers, [a for a in defended if records[a.id].kind == "unsafe"])
    )
    both = [(alone[key], ours[key]) for key in alone if key in ours]
    refused = [own for text, own in both if text == "refused"]
    found = {
        "refused": proportion(len(refused), len(both)),
        "asr_where_refused": proportion(refused.count("answered"), len(refused)),
        "asr": proportion([own for _, own in both].count("answered"), len(both)),
    }
    words = list(dict.fromkeys(q.condition.word for q in harmful))
    return {name: metric.to_dict() for name, metric in found.items()} | {"words": words}
