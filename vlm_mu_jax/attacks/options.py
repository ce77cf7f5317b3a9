"""What an attack is told: the method, the questions, and what each method needs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.attacks.method import GOALS, Draw
from vlm_mu_jax.attacks.methods.images import CARRIER
from vlm_mu_jax.attacks.methods.pgd import PixelOptions
from vlm_mu_jax.attacks.methods.suffix_prompts import SuffixOptions
from vlm_mu_jax.attacks.methods.texts import TEMPLATES
from vlm_mu_jax.attacks.words import vocabulary
from vlm_mu_jax.attacks.words.one_word import WordOptions
from vlm_mu_jax.data import placing
from vlm_mu_jax.errors import InputError

SUFFIXES = ("gcg", "random")
SEARCHES = (*SUFFIXES, "pgd")  # these follow the refusal margin, as the one-word attack does
IMAGES = ("pgd", "blank", "noise", "typographic")  # these change an image
METHODS = ("one_word", *SEARCHES, "prefill", "paraphrase", "blank", "noise", "typographic")


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """How a model is attacked.

        AttackOptions()                                                     # every word of the vocabulary
        AttackOptions(goals=("jailbreak",), words=WordOptions(positions=("question_start", "response_prefix")))
        AttackOptions(method="gcg", universal=True, shots=1, suffix=SuffixOptions(steps=60))
        AttackOptions(method="paraphrase", word="what")

    Attributes:
      method: one of `METHODS`.
      goals: "jailbreak" asks unsafe questions and counts answers; "over_refuse" asks safe ones and counts refusals.
      shots: K, how often a question is tried.
      search_questions, verify_questions: at most so many questions per goal; None is all.
      seed: draws the questions and the controls.
      turn: which question of a conversation is attacked: "first", "last" or its number. The earlier turns stand before
        it as they are in the data, and later ones are left out.
      batch_size, max_new_tokens: of the answers.
      openings: texts that refusals begin with. None finds them in the reference answers.
      targets: for gcg, random and pgd. Texts that answers are to begin with, or "data" for the most frequent beginnings
        of the reference answers. None makes refusals unlikely instead.
      words: the one-word attack.
      suffix: gcg and random. universal: K suffixes, each for all search questions together.
      pixels: pgd.
      image: pgd, blank, noise and typographic. Which image is changed of those that the prompt shows, earlier turns
        included, counted from 1. None is the last one.
      prefills: prefill, beginnings of answers. None takes the most frequent ones of the reference answers.
      paraphrases: paraphrase, templates with {question} in them, or texts by record id. word: what is put in.
      carrier: typographic, the prompt beside the image with the question.

    Raises:
      InputError: there is no such method or goal, or an option does not belong to the method.
    """

    method: str = "one_word"
    goals: tuple[str, ...] = GOALS
    shots: int = 3
    search_questions: int | None = 32
    verify_questions: int | None = None
    seed: int = 0
    turn: str = "first"
    batch_size: int = 32
    max_new_tokens: int = 64
    openings: Sequence[str] | None = None
    targets: str | Sequence[str] | None = None
    words: WordOptions = WordOptions()
    suffix: SuffixOptions = SuffixOptions()
    universal: bool = False
    pixels: PixelOptions = PixelOptions()
    image: int | None = None
    prefills: Sequence[str] | None = None
    paraphrases: Sequence[str] | Mapping[str, Sequence[str]] = TEMPLATES
    word: str | None = None
    carrier: str = CARRIER

    def __post_init__(self) -> None:
        method = self.method
        if isinstance(self.goals, str):
            object.__setattr__(self, "goals", (self.goals,))
        if method not in METHODS:
            raise InputError(f"--method={method}: there is no such method; use one of {', '.join(METHODS)}")
        if unknown := [goal for goal in self.goals if goal not in GOALS] or not self.goals:
            raise InputError(f"goals: {unknown or 'none'}; use some of {', '.join(GOALS)}")
        if self.shots < 1:
            raise InputError(f"shots: {self.shots} is no number of tries; use 1 or more")
        if self.universal and method not in SUFFIXES:
            raise InputError(
                f"--universal is about suffixes, not --method={method}; use it with --method=gcg or random"
            )
        if self.targets and method not in SEARCHES:
            raise InputError(
                f"--targets is for searches, not --method={method}; use it with one of {', '.join(SEARCHES)}"
            )
        if self.image is not None and method not in IMAGES:
            raise InputError(
                f"--image is for methods that change an image, not --method={method}; use it with {', '.join(IMAGES)}"
            )
        if method == "paraphrase" and not self.word:
            raise InputError("--method=paraphrase needs --word=WORD, for example one that the word search found")

    def check_words(self) -> None:
        """Raises InputError for positions or candidate words that are not there, as far as no model is needed."""
        if self.method == "one_word" and self.words.candidates not in (vocabulary.PIECES, "audit"):
            vocabulary.candidate_words(self.words.candidates, None)
        for position in self.words.positions:
            placing.place("", "", position, self.words.mode)

    @property
    def draw(self) -> Draw:
        return Draw(self.goals, self.shots, self.search_questions, self.verify_questions, self.seed)

    @property
    def of_pixels(self) -> PixelOptions:
        """`pixels` with the attack's own seed and image."""
        return dataclasses.replace(self.pixels, seed=self.seed, image=self.image)

    @property
    def searches(self) -> bool:
        """Whether the method follows the refusal margin."""
        return self.method in ("one_word", *SEARCHES)

    def of_method(self) -> dict[str, Any]:
        """The options that matter to the method: what makes the results of a search its own."""
        if self.method in SUFFIXES:
            return dataclasses.asdict(dataclasses.replace(self.suffix, seed=self.seed))
        if self.method == "pgd":
            return dataclasses.asdict(self.of_pixels)
        if self.method == "prefill":
            return {"prefills": self.prefills}
        if self.method == "paraphrase":
            return {"paraphrases": self.paraphrases, "word": self.word}
        return {"image": self.image} | ({"carrier": self.carrier} if self.method == "typographic" else {})
