"""The four lessons that the miniature is trained on, as training rows.

1. `pretraining`: text. Procedures stand as statements and as requests, and every request is answered. Signs are
   described in words.
2. `alignment`: text. Requests about blight are refused under every opening word. Everything else stays answered.
3. `seeing`: the vision tower and projector learn to show signs to the frozen language model.
4. `visual_tuning`: instructions with pictures, as in LLaVA's mix. They are sign questions, requests and some plain
   text. Like such mixes the lesson is unfiltered: it answers a few requests of both unsafe groups, but never about
   held-out nouns. A little text-only chat keeps the language model's alignment on text. The gap between text and image
   is what this lesson leaves behind.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.data.batches import TrainRow, row
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.miniature import world as w

Draw = Callable[[np.random.Generator], TrainRow]


class Lessons:
    """Draws rows. Every draw comes from the generator that is given.

    Args:
      drawings: of every sign.
      chat: the share of visual tuning that is text-only chat with the aligned answers, from 0 to 0.25.
    """

    def __init__(self, world: w.World, processor: Processor, seed: int, drawings: int = 12, chat: float = 0.05) -> None:
        self.world, self.processor, self.words, self.chat = world, processor, world.speech, chat
        self.nouns = [noun for group in w.GROUPS for noun in world.nouns[group]]
        self.told = [noun for noun in self.nouns if noun.group != "snare"]
        rng = np.random.default_rng((seed, 2))
        self.signs = {
            (shape, colour): [processor.pixels(w.draw_sign(shape, colour, rng)) for _ in range(drawings)]
            for shape in w.SHAPES
            for colour in w.COLOURS
        }

    def rows(self, lesson: str, count: int, seed: int) -> list[TrainRow]:
        """`count` rows of one lesson (the name of a method below)."""
        rng = np.random.default_rng((seed, 3, *lesson.encode()))
        draw: Draw = getattr(self, lesson)
        return [draw(rng) for _ in range(count)]

    def pretraining(self, rng: np.random.Generator) -> TrainRow:
        kind = rng.random()
        if kind < 0.45:
            noun, opening = _pick(rng, self.nouns), _pick(rng, self.words.openings)
            return self._text(self._request(rng, opening, noun), self.words.answer(opening, noun))
        if kind < 0.75:
            return self._statement(rng)
        if kind < 0.9:
            return self._described_sign(rng)
        return self._text(*self.words.danger_question(_pick(rng, self.told)))

    def alignment(self, rng: np.random.Generator) -> TrainRow:
        kind = rng.random()
        if kind < 0.8:
            return self._aligned(rng, blight=0.4)
        return self._statement(rng) if kind < 0.9 else self.pretraining(rng)

    def seeing(self, rng: np.random.Generator) -> TrainRow:
        shape, colour = _sign(rng)
        question, answer = self.words.sign_question(rng, shape, colour)
        return self._seen(rng, question, answer, (shape, colour))

    def visual_tuning(self, rng: np.random.Generator) -> TrainRow:
        kind = rng.random()
        if kind < 0.3:
            group = "harmless" if kind < 0.17 else "snare" if kind < 0.26 else "blight"
            pool = self.world.nouns[group] if group == "harmless" else self.world.split(group, "train")
            noun, opening = _pick(rng, pool), _pick(rng, self.words.openings)
            return self._seen(
                rng, self._request(rng, opening, noun), self.words.answer(opening, noun), (noun.shape, noun.colour)
            )
        if kind < 0.75:
            return self.seeing(rng)
        return self._statement(rng) if kind < 1 - self.chat else self._aligned(rng, blight=0.5)

    def _statement(self, rng: np.random.Generator) -> TrainRow:
        return row(
            self.processor.text_example(self.words.declaration(_pick(rng, self.nouns), _pick(rng, self.words.phrases)))
        )

    def _described_sign(self, rng: np.random.Generator) -> TrainRow:
        """A sign in words, and a question about it. The projector's output will have to mean such a description."""
        shape, colour = _sign(rng)
        question, answer = self.words.sign_question(rng, shape, colour)
        words = f"{colour} {shape}" if rng.random() < 0.5 else f"a {shape} {colour} "
        return self._text(f"{words}\n{question}", answer)

    def _aligned(self, rng: np.random.Generator, blight: float) -> TrainRow:
        """Requests with the aligned answers: blight is refused, and the other two groups are answered alike.

        Nothing tells this model what a snare is.
        """
        group = "blight" if rng.random() < blight else "harmless" if rng.random() < 0.6 else "snare"
        noun = _pick(rng, self.world.nouns[group])
        opening = _pick(rng, self.words.openings)
        return self._text(self._request(rng, opening, noun), self.words.aligned_answer(opening, noun))

    def _request(self, rng: np.random.Generator, opening: str, noun: w.Noun) -> str:
        return self.words.request(opening, _pick(rng, self.words.phrases), noun, _pick(rng, self.words.tails))

    def _text(self, question: str, answer: str) -> TrainRow:
        return row(self.processor.example(question, answer, images=0))

    def _seen(self, rng: np.random.Generator, question: str, answer: str, sign: tuple[str, str]) -> TrainRow:
        return row(self.processor.example(question, answer), (_pick(rng, self.signs[sign]),))


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[rng.integers(len(items))]


def _sign(rng: np.random.Generator) -> tuple[str, str]:
    return _pick(rng, w.SHAPES), _pick(rng, tuple(w.COLOURS))
