"""The passes of a defence: a model that is asked on the way to an answer, and the gate of its guard."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, Contrast, answer_questions, over_length
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.steering.guard import SteerPerBatch
from vlm_mu_jax.steering.guard_options import GuardOptions
from vlm_mu_jax.storage.model_folder import Model


def check_gate(guard: GuardOptions | None) -> None:
    """Raises InputError unless this is a guard whose gate reads the text alone."""
    if guard is None or not guard.votes_on_text:
        raise InputError(
            "the defence gate_and_check needs a guard whose gate reads the text alone: --guard of"
            " bin/guard extract --decide=example --gate_source=text"
        )


@dataclasses.dataclass(frozen=True)
class Ask:
    """The model as a defence asks it. Called with the name of a pass and its questions, it answers them in their order.

    Attributes:
      model, options: who answers, and how; `options.steer` is the guard's.
      set_name: of the questions, for the progress bar.
      kept: the answers file of the set, None = in memory.
      has_passes: whether every pass has a file of its own beside `kept`.
    """

    model: Model
    options: AnswerOptions
    set_name: str
    kept: Path | None
    has_passes: bool

    def __call__(
        self,
        stage: str,
        questions: Sequence[Question],
        most: int | None = None,
        contrast: Contrast | None = None,
        steered: bool = True,
    ) -> list[Answer]:
        """Answers of at most `most` tokens, contrasted as asked. Not `steered`: without the guard."""
        path = self.kept
        if path is not None and self.has_passes:
            path = path.parent / "passes" / f"{self.set_name}.{stage}.jsonl"
        label = f"{self.set_name} {stage}".replace("_", " ").strip()
        longest = min(self.options.max_new_tokens, most or sys.maxsize)
        limited = dataclasses.replace(self.options, max_new_tokens=longest, contrast=contrast)
        if not steered:
            limited = dataclasses.replace(limited, steer=None)
        return answer_questions(self.model, questions, path, limited, label=label, only_these=not self.has_passes)

    def opens(self, questions: Sequence[Question]) -> list[bool]:
        """Whether the guard's gate opens on each of these questions as text. Never where one is too long to be asked.

        Raises InputError without a guard whose gate reads the text alone.
        """
        steer = self.options.steer
        check_gate(steer.guard.options if isinstance(steer, SteerPerBatch) else None)
        lengths = [len(self.model.processor.prompt_ids(q.text, [], q.context)) for q in questions]
        fits = [k for k, n in enumerate(lengths) if not over_length(self.model, n, self.options.max_new_tokens)]
        some = [questions[k] for k in fits]
        opened = steer.opens([q.text for q in some], [q.context for q in some], self.options.batch_size)
        found = dict(zip(fits, opened.tolist(), strict=True))
        return [found.get(k, False) for k in range(len(questions))]
