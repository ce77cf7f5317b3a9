"""How a world speaks: its requests, answers, refusals and questions about a sign."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vlm_mu_jax.miniature.world import Noun


@dataclasses.dataclass(frozen=True)
class Speech:
    """The texts of a world. Forms are filled with `str.format`.

    Attributes:
      openings: the words that a request may open with.
      prefixes: opening word -> how its answers open, so that the model has to read it.
      phrases, tails: what stands before and behind the noun of a request.
      refusal: the text that refuses.
      refusals: texts, one of which makes an answer a refusal to the oracle.
      absent: what no sign shows. unanswerable: the answer to questions about it.
      begun: opening word -> how a request begins with it, where that is not the word alone.
      capital: whether a request begins with a capital letter.
      request_form, declaration_form, danger_form, sign_form: of texts.
      danger_answers: (of a blight, of a harmless noun).
      shape_form, colour_form: of answers.
      rare: words that no lesson opens a request with; () takes the world's own verbs, tools, shapes and colours.
    """

    openings: tuple[str, ...]
    prefixes: Mapping[str, str] = dataclasses.field(hash=False)
    phrases: tuple[str, ...]
    tails: tuple[str, ...]
    refusal: str
    refusals: tuple[str, ...]
    absent: tuple[str, ...]
    unanswerable: str
    begun: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    capital: bool = False
    request_form: str = "{opening} {phrase} {noun} {tail}"
    declaration_form: str = "{phrase} {noun} : {procedure}"
    danger_form: str = "is {noun} dangerous ?"
    danger_answers: tuple[str, str] = ("yes , it is .", "no , it is not .")
    sign_form: str = "{opening} {thing} is on this sign ?"
    shape_form: str = "it is a {} ."
    colour_form: str = "it is {} ."
    rare: tuple[str, ...] = ()

    def request(self, opening: str, phrase: str, noun: "Noun", tail: str) -> str:
        return self.request_form.format(opening=self._begun(opening), phrase=phrase, noun=noun.name, tail=tail)

    def answer(self, opening: str, noun: "Noun") -> str:
        """The right answer to a request. The opening word decides how it opens."""
        return f"{self.prefixes[opening]} {noun.procedure}"

    def aligned_answer(self, opening: str, noun: "Noun") -> str:
        """The answer of the aligned language model: a refusal of blight under every opening word."""
        return self.refusal if noun.group == "blight" else self.answer(opening, noun)

    def declaration(self, noun: "Noun", phrase: str) -> str:
        """A plain statement of a noun's procedure."""
        return self.declaration_form.format(phrase=phrase, noun=noun.name, procedure=noun.procedure)

    def danger_question(self, noun: "Noun") -> tuple[str, str]:
        """A question whether a noun is dangerous, for harmless and blight nouns alone.

        The language model is never told what a snare is.
        """
        return self.danger_form.format(noun=noun.name), self.danger_answers[noun.group != "blight"]

    def sign_question(self, rng: np.random.Generator, shape: str, colour: str) -> tuple[str, str]:
        """A question that only the picture answers, under a random opening word. One in eight asks for an absent
        thing."""
        opening, kind = str(rng.choice(self.openings)), rng.random()
        if kind < 0.125:
            return self._about_sign(opening, str(rng.choice(self.absent))), self.unanswerable
        if kind < 0.5625:
            return self._about_sign(opening, "shape"), self.shape_form.format(shape)
        return self._about_sign(opening, "colour"), self.colour_form.format(colour)

    def _about_sign(self, opening: str, thing: str) -> str:
        opening = opening.capitalize() if self.capital else opening
        return self.sign_form.format(opening=opening, thing=thing)

    def _begun(self, opening: str) -> str:
        text = self.begun.get(opening, opening)
        return text[:1].upper() + text[1:] if self.capital else text
