"""One question as a model is asked it: text, image, and under which condition of the evaluation."""

import dataclasses
from pathlib import Path

from vlm_mu_jax.evaluation.answers.answers_file import Condition

BLANK = "blank:"  # what the name of an image without content begins with


@dataclasses.dataclass(frozen=True)
class Question:
    """One question to ask.

    id: of the record it comes from. image: a file, None for text only, or "blank:KIND" for an image without content.
    condition: how the question differs from its record's own. answer_start: text that the answer already starts with,
    which is part of the answer that is kept.
    """

    id: str
    text: str
    image: Path | str | None
    condition: Condition = Condition()
    answer_start: str = ""

    @property
    def has_image(self) -> bool:
        return self.image is not None
