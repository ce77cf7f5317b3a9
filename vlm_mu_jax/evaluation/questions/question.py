"""One question as a model is asked it: text, image, and under which condition of the evaluation."""

import dataclasses
from pathlib import Path

from vlm_mu_jax.evaluation.answers.answers_file import Condition

BLANK = "blank:"  # what the name of an image without content begins with


@dataclasses.dataclass(frozen=True)
class Question:
    """One question to ask. `image` is a file, None for text only, or "blank:KIND" for an image without content.

    answer_start: text the answer already starts with; it is part of the answer that is recorded.
    """

    id: str
    text: str
    image: Path | str | None
    condition: Condition = Condition()
    answer_start: str = ""

    @property
    def has_image(self) -> bool:
        return self.image is not None
