"""`vlm_mu_jax.Chat`: a conversation with a model, turn by turn (what `bin/generate --chat` and `--history` run).

chat = vlm_mu_jax.Chat(vlm_mu_jax.load("runs/base"))
print(chat.say("What is on this sign?", ["sign.png"]).text)
print(chat.say("Which colour has it?").text)
"""

from collections.abc import Iterator, Sequence
from typing import Any

from vlm_mu_jax.data.records import Record, Records, Turn
from vlm_mu_jax.data.rendering import Context, asked
from vlm_mu_jax.evaluation.answers.one_answer import OneAnswer, SamplingOptions, stream_in_context
from vlm_mu_jax.storage.model_folder import Model


class Chat:
    """A conversation with a model.

    Every answer is made of the whole conversation so far, rendered by the model's chat template. Nothing of an earlier
    prompt's keys and values is kept.

    Attributes:
      turns: what was said, questions and answers in turn.
      images: all images that were shown, in order.
      system: the system text, None = the processor's.
      options: how answers are made.
    """

    def __init__(self, model: Model, system: str | None = None, **options: Any) -> None:
        """options: fields of `SamplingOptions`, such as max_new_tokens=64."""
        self.model, self.system, self.options = model, system, SamplingOptions(**options)
        self.turns: tuple[Turn, ...] = ()
        self.images: tuple[Any, ...] = ()

    def say(self, text: str, images: Sequence[Any] = ()) -> OneAnswer:
        """The answer to `text`, which joins the conversation with it.

        Args:
          images: files or pictures (PIL) that are shown with the question, in front of it.

        Raises:
          InputError: an image cannot be read, or the conversation is too long. It then stays as it was.
        """
        *_, whole = self.stream(text, images)
        return whole

    def stream(self, text: str, images: Sequence[Any] = ()) -> Iterator[OneAnswer]:
        """Yields the answer so far, every few tokens; the last is what `say` returns. Arguments as there."""
        question = asked(text, len(images))
        yield from self._answered(question, (*self.images, *images))

    def reset(self) -> None:
        """Forgets the conversation; the system text stays."""
        self.turns, self.images = (), ()

    def _answered(self, question: Turn, images: tuple[Any, ...]) -> Iterator[OneAnswer]:
        """The answer to a question with all images up to it; both then belong to the conversation."""
        context, whole = Context(self.turns, question, self.system), None
        for whole in stream_in_context(self.model, question.text, images, context, self.options):
            yield whole
        text = "" if whole is None else whole.text
        self.turns, self.images = (*self.turns, question, Turn("assistant", (text,))), images


def stream_reply(model: Model, records: Records, options: SamplingOptions) -> Iterator[OneAnswer]:
    """Yields the answer so far to the last question of a conversation.

    Args:
      records: one conversation, as `data.questions.read_conversation` reads it. An answer that it ends with is left
        out.

    Raises InputError when the prompt is too long.
    """
    record: Record = records[0].answered("").at_question(-1)
    context = Context(record.turns[:-1], record.own, record.system)
    images = records.image_paths(record)
    yield from stream_in_context(model, record.question, images, context, options)
