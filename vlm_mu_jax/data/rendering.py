"""Conversations as text and token ids with one placeholder per image: what needs no picture."""

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vlm_mu_jax.data import answer_spans, chat_template
from vlm_mu_jax.data.answer_spans import Spoken
from vlm_mu_jax.data.chat_template import ChatTemplate, JinjaTemplate, Message
from vlm_mu_jax.data.records import ImagePart, Record, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.image_plans.image_plan import Layout


@dataclasses.dataclass(frozen=True)
class Context:
    """What stands around a question.

    Attributes:
      before: the earlier turns.
      own: the question's turn. Other words may take the place of its own; its images stay.
      system: the conversation's system text, None = the processor's.
    """

    before: tuple[Turn, ...]
    own: Turn
    system: str | None = None

    @classmethod
    def of(cls, record: Record) -> "Context | None":
        """That of a record's question. None where the question stands alone, behind its images: nothing to say."""
        own, number = record.own, len(record.own.images)
        if not record.at and record.system is None and own == asked(record.question, number).showing(own.images):
            return None
        return cls(record.turns[: 2 * record.at], own, record.system)

    def turns(self, question: str) -> tuple[Turn, ...]:
        """The conversation that ends with `question`."""
        return (*self.before, self.own.with_text(question))

    def without_images(self, in_front: int = 0) -> "Context":
        """The same conversation in words alone, but for `in_front` images in front of the question."""
        before = tuple(dataclasses.replace(turn, parts=(turn.text,)) for turn in self.before)
        return Context(before, asked(self.own.text, in_front), self.system)


class Renderer:
    """A chat template with the tokenizer of its model.

    Attributes:
      image_token: the text of an image token, or None for a text-only model.
      mark: the placeholder that the template prints for an image: that text, or another that the image plan names.
    """

    def __init__(self, tokenizer: Any, chat: ChatTemplate, cfg: ModelConfig, system: str | None) -> None:
        """system: text of conversations that have none of their own; None = the template's."""
        self.tokenizer, self.chat, self.cfg, self.system = tokenizer, chat, cfg, system
        self.image_token = None if cfg.image_token_id is None else tokenizer.convert_ids_to_tokens(cfg.image_token_id)
        self.mark = None if cfg.vision is None else cfg.vision.plan.mark or self.image_token

    def messages(self, turns: Sequence[Turn], system: str | None) -> list[Message]:
        """Messages for the template. A literal placeholder in a text would take the place of an image's token."""
        for turn in turns:
            self.refuse_placeholder("question" if turn.role == "user" else "answer", turn.text)
        system = self.system if system is None else system
        self.refuse_placeholder("system text", system or "")
        return chat_template.to_messages(turns, system)

    def render(self, messages: Sequence[Message], ready: bool) -> str:
        """The template's text, with one placeholder per image."""
        text = self.chat.render(messages, ready, self.mark or "", self._special)
        wanted = sum(part["type"] == "image" for one in messages for part in one["content"])
        if self.mark and text.count(self.mark) != wanted:
            raise InputError(
                f"the chat template prints {text.count(self.mark)} places {self.mark!r} for {wanted}"
                " images; give one for this kind of model with --template or --chat_template"
            )
        return text

    @functools.cached_property
    def _special(self) -> dict[str, str]:
        """Texts of the special tokens; the end token is the model's own."""
        texts = {name: text for name, text in self.tokenizer.special_tokens_map.items() if isinstance(text, str)}
        if not isinstance(self.chat, JinjaTemplate) and self.cfg.eos_ids:
            texts["eos_token"] = self.tokenizer.convert_ids_to_tokens(self.cfg.eos_ids[0])
        return texts

    @functools.cached_property
    def _gap(self) -> str:
        """What the template prints between a prompt and its answer: the model has to write it, so it carries loss."""
        ask = [asked("?", 0)]
        ready = self.render(chat_template.to_messages(ask), ready=True)
        answered = chat_template.to_messages([*ask, Turn("assistant", ("?",))])
        spoken = self.spoken(answered)
        before = spoken.text[: spoken.spans[0][0]]
        return before.removeprefix(ready) if before.startswith(ready) else ""

    @functools.cached_property
    def _ends(self) -> tuple[str, ...]:
        """Texts that end an answer where they follow it: the template's end; the model's end token; of a checkpoint's
        own template any special token that does not open a message."""
        if self.chat.end:
            return (self.chat.end,)
        if not isinstance(self.chat, JinjaTemplate):
            return (self._special["eos_token"],) if "eos_token" in self._special else ()
        special = {text for text in self.tokenizer.all_special_tokens if text}
        special |= {one.content for one in self.tokenizer.added_tokens_decoder.values() if one.special}
        ask = chat_template.to_messages([asked("?", 0)])
        ready, open_text = self.render(ask, ready=True), self.render(ask, ready=False)
        opening = ready[len(open_text) :].lstrip() if ready.startswith(open_text) else ""
        openings = {self.image_token, self.mark, self.tokenizer.bos_token}
        openings |= {text for text in special if opening.startswith(text)}
        ends = {self.tokenizer.convert_ids_to_tokens(i) for i in self.cfg.eos_ids if i < len(self.tokenizer)}
        return tuple((special - openings) | ends)

    def encode(self, texts: list[str], **options: Any) -> Any:
        """The tokenizer's output. A text-only model's own template prints all special tokens; transformers adds the
        beginning-of-text token to other prompts that do not begin with it."""
        bos = self.tokenizer.bos_token
        own = isinstance(self.chat, JinjaTemplate)
        add = not own or (self.cfg.vision is not None and not (bos and texts[0].startswith(bos)))
        return self.tokenizer(texts, add_special_tokens=add, **options)

    def located(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """(ids, the token spans of the character spans). A span begins at the first token that the text before it,
        taken alone, does not have, and ends likewise. Offsets will not do: normalisers move them."""
        places = sorted({at for span in spans for at in span if at < len(text)})
        ids, *before = self.encode([text, *(text[:at] for at in places)])["input_ids"]
        at_token = {at: common_prefix(row, ids) for at, row in zip(places, before, strict=True)} | {len(text): len(ids)}
        return tuple(ids), [(at_token[start], at_token[end]) for start, end in spans]

    def refuse_placeholder(self, what: str, text: str) -> None:
        """Raises InputError for a text that holds one."""
        for placeholder in (self.mark, self.image_token):
            if placeholder and placeholder in text:
                raise InputError(f"the {what} holds the image placeholder {placeholder!r}; remove it")

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (a renderer lives as long as its process)
    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a rendered text, which many questions may ask for again."""
        return self.fresh_ids(text)

    def fresh_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a rendered text. They are not kept: a server would fill its memory with them."""
        return tuple(self.encode([text])["input_ids"][0])

    def filled(self, text: str, layouts: Sequence[Layout]) -> str:
        """A rendered text with every mark replaced by its image's layout, one image token for each run of them."""
        if not layouts or not self.mark:
            return text
        first, *rest = text.split(self.mark)
        return first + "".join(f + part for f, part in zip(map(self._short, layouts), rest, strict=True))

    def moved(self, text: str, spans: Sequence[tuple[int, int]], layouts: Sequence[Layout]) -> list[tuple[int, int]]:
        """Character spans of a rendered text -> those of `filled`."""
        if not layouts or not self.mark:
            return list(spans)
        ends = [found.end() for found in re.finditer(re.escape(self.mark), text)]
        longer = [len(self._short(layout)) - len(self.mark) for layout in layouts]
        grown = [0, *itertools.accumulate(longer)]
        return [tuple(at + grown[bisect.bisect_right(ends, at)] for at in span) for span in spans]

    def _short(self, layout: Layout) -> str:
        return "".join(part if isinstance(part, str) else self.image_token for part in layout)

    def spoken(self, messages: Sequence[Message]) -> Spoken:
        """The text of a conversation and where its answers stand, their gaps and ends apart."""
        return answer_spans.find(messages, functools.partial(self.render, ready=False))

    def with_ends(self, spoken: Spoken) -> Spoken:
        """The answers with all that the model has to write: the gap before and the end behind."""
        return answer_spans.with_ends(spoken, self._gap, self._ends)

    def question_text(
        self, question: str, number: int = 0, answer_start: str = "", context: Context | None = None
    ) -> str:
        """The prompt with one placeholder per image, and what its answer begins with.

        number: images in front of the question, where there is no `context`.
        """
        turns = (asked(question, number),) if context is None else context.turns(question)
        system = None if context is None else context.system
        if not answer_start:
            return self.render(self.messages(turns, system), ready=True)
        messages = self.messages([*turns, Turn("assistant", (answer_start,))], system)
        spoken = self.spoken(messages)
        return spoken.text[: spoken.spans[-1][1]]


def contexts_of(records: Iterable[Record], in_front: int | None = None) -> list[Context | None]:
    """What stands around each record's question.

    in_front: so many images stand in front of each question, and no others in its conversation. None: the record's own
    images, where they stand.
    """
    found = [Context.of(record) for record in records]
    return found if in_front is None else [one and one.without_images(in_front) for one in found]


def asked(question: str, number: int) -> Turn:
    """A question with its images in front."""
    return Turn("user", (*[ImagePart("image")] * number, question))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
