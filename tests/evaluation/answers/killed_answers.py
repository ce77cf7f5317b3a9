"""Answers questions slowly, so that it can be killed: python killed_answers.py FILE SECONDS_PER_BATCH."""

import sys
import time
from pathlib import Path

from tests.evaluation.conftest import CONFIG, make_params, make_tokenizer
from vlm_mu_jax.absent import import_transformers_without_torch
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.storage.model_folder import Model

QUESTIONS = [Question(f"q{i}", "what " + "abcdefghijkl"[i], None) for i in range(12)]


def run(path: Path, pause: float) -> None:
    """Prints how many batches were asked."""
    cfg, asked = from_hf(CONFIG), []

    def slowly(batches, label, total):
        for batch in batches:
            yield batch
            asked.append(batch)
            time.sleep(pause)

    model = Model(make_params(cfg, 0), cfg, Processor(make_tokenizer(), None, "llava_hf", cfg), Path("tiny"))
    answer_questions(model, QUESTIONS, path, AnswerOptions(2, 3, progress=slowly))
    print(len(asked), flush=True)


if __name__ == "__main__":
    import_transformers_without_torch()
    run(Path(sys.argv[1]), float(sys.argv[2]))
