"""Suffixes as text and as token ids: where one stands in its prompt, and which proposals keep their ids as text.

A suffix is sent as text, so it is scored as text: the prompt with it is tokenised anew as a whole.
"""

import dataclasses

import numpy as np

from vlm_mu_jax.data.placing import place
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.errors import InputError

POSITION, MODE = "question_end", "insert"  # of `words.place`: what a suffix is
_DRAWS = 64  # random suffixes drawn at a time


@dataclasses.dataclass(frozen=True)
class Slots:
    """A prompt with a suffix as token ids, one placeholder per image: head + ids + tail, `ids` being the suffix's."""

    head: tuple[int, ...]
    ids: tuple[int, ...]
    tail: tuple[int, ...]


def vocabulary(processor: Processor, V: int) -> np.ndarray:
    """Token ids a suffix may be made of: what prints, and is no special token. InputError when there is none."""
    tokenizer = processor.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    every = [i for i in range(min(len(tokenizer), V)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in every], clean_up_tokenization_spaces=False) if every else []
    kept = [i for i, text in zip(every, texts, strict=True) if text.strip() and text.isprintable() and "�" not in text]
    if not kept:
        raise InputError("the tokenizer has no printable token to make a suffix of; use the model's own tokenizer")
    return np.array(kept, np.int32)


def with_suffix(question: str, text: str) -> str:
    return place(question, text, POSITION, MODE).question


def slots(processor: Processor, question: str, text: str, images: Images) -> Slots:
    """Where a suffix stands in its prompt: what the prompt with it does not share with the prompt without it."""
    bare, full = processor.short_ids([(question, ""), (with_suffix(question, text), "")], images)
    most = min(len(bare), len(full))
    head = next((i for i in range(most) if bare[i] != full[i]), most)
    tail = next((i for i in range(most - head) if bare[-1 - i] != full[-1 - i]), most - head)
    return Slots(full[:head], full[head : len(full) - tail], full[len(full) - tail :])


def aligned(processor: Processor, question: str, text: str, like: Slots, images: Images) -> Slots | None:
    """Where a suffix stands behind another question: None where its ids there are not those of `like`."""
    (full,) = processor.short_ids([(with_suffix(question, text), "")], images)
    behind = like.ids + like.tail
    return Slots(full[: -len(behind)], like.ids, like.tail) if full[-len(behind) :] == behind else None


def surviving(
    processor: Processor, question: str, now: Slots, proposed_NS: np.ndarray, images: Images
) -> tuple[list[str], list[int]]:
    """(texts, their rows): the proposals whose text is tokenised to their very ids, each text once."""
    texts = _texts(processor, proposed_NS)
    rows = processor.short_ids([(with_suffix(question, text), "") for text in texts], images) if texts else []
    kept: dict[str, int] = {}
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if text and row == (*now.head, *proposed_NS[i].tolist(), *now.tail):
            kept.setdefault(text, i)
    return list(kept), list(kept.values())


def random_suffix(
    processor: Processor, question: str, images: Images, allowed: np.ndarray, length: int, rng: np.random.Generator
) -> str:
    """Text of random tokens that is `length` tokens long behind the question, or as near to it as a draw comes."""
    texts = [text for text in _texts(processor, rng.choice(allowed, (_DRAWS, length))) if text]
    return min(texts, key=lambda text: abs(len(slots(processor, question, text, images).ids) - length))


def _texts(processor: Processor, ids_NS: np.ndarray) -> list[str]:
    """Suffixes as they stand behind a question; one with the image placeholder's text in it is empty."""
    texts = processor.tokenizer.batch_decode(ids_NS.tolist(), clean_up_tokenization_spaces=False)
    image = processor.cfg.image_token_id
    mark = None if image is None else processor.tokenizer.convert_ids_to_tokens(image)
    return ["" if mark and mark in text else text.strip() for text in texts]
