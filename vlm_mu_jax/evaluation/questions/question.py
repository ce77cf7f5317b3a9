"""One question as a model is asked it: text, images, earlier turns, and the condition of the evaluation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.evaluation.answers.answers_file import Condition

BLANK = "blank:"  # what the name of an image without content begins with


@dataclasses.dataclass(frozen=True)
class Question:
    """One question to ask.

    Attributes:
      id: of the record it comes from.
      text: the question.
      image: a file, None for text only, or "blank:KIND" for an image without content. Of several images the first.
      condition: how the question differs from its record's own.
      answer_start: text that the answer already starts with, which is part of the answer that is kept.
      context: the conversation around the question; None where it stands alone, behind its images.
      more_images: the further images of the prompt, in order.
      own_history: the answers of the earlier turns are those that the model gave to the same dialogue's earlier
        questions, in place of the context's.
    """

    id: str
    text: str
    image: Path | str | None
    condition: Condition = Condition()
    answer_start: str = ""
    context: Context | None = None
    more_images: tuple[Path, ...] = ()
    own_history: bool = False

    @property
    def dialogue(self) -> tuple:
        """Names the dialogue that the question is a turn of."""
        return (self.id, dataclasses.replace(self.condition, turn=0))

    def behind(self, answers: Sequence[str]) -> "Question":
        """The question behind these answers to the earlier ones."""
        coming = iter(answers)
        before = tuple(
            turn if turn.role == "user" else dataclasses.replace(turn, parts=(next(coming),))
            for turn in self.context.before
        )
        return dataclasses.replace(self, context=dataclasses.replace(self.context, before=before), own_history=False)

    def showing(self, image: str | None) -> "Question":
        """The same question with `image`, "blank:KIND" or None, in place of all images of its conversation. It stands
        in front of the question. The condition stays what it was."""
        context = self.context and self.context.without_images(int(image is not None))
        return dataclasses.replace(self, image=image, more_images=(), context=context)

    def exchanged(self, place: int, image: Path) -> "Question":
        """The same question with another image in the place of its `place`-th one, counted from 0."""
        first, *more = (*self.images[:place], image, *self.images[place + 1 :])
        return dataclasses.replace(self, image=first, more_images=tuple(more))

    @property
    def images(self) -> tuple[Path | str, ...]:
        """All images of the prompt, in order."""
        return () if self.image is None else (self.image, *self.more_images)

    @property
    def has_image(self) -> bool:
        return self.image is not None

    @classmethod
    def of(
        cls,
        records: Records,
        record: Record,
        condition: Condition | None = None,
        text: str | None = None,
        answer_start: str = "",
    ) -> "Question":
        """A record's question with all images of its conversation up to there.

        Args:
          condition: by default that of the unchanged question.
          text: what is asked instead of the record's own question.
        """
        shown = record.images
        condition = condition or Condition(image="own" if shown else "none")
        first, *more = (records.root / path for path in shown) if shown else (None,)
        text = record.question if text is None else text
        return cls(record.id, text, first, condition, answer_start, Context.of(record), tuple(more))
