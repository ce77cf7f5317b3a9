"""What a model is put through, and how hard."""

import dataclasses
from pathlib import Path
from typing import Any

from vlm_mu_jax.attacks.methods.pgd import PixelOptions
from vlm_mu_jax.attacks.methods.suffix import SuffixOptions
from vlm_mu_jax.attacks.words.one_word import WordOptions
from vlm_mu_jax.errors import InputError

ROWS = (
    "as_is",
    "text_only",
    "words",
    "paraphrase",
    "prefill",
    "gcg",
    "pgd",
    "int8",
    "int4",
    "nf4",
    "pruned",
    "relearned",
)


@dataclasses.dataclass(frozen=True)
class HoldsOptions:
    """The rows of the table, and how each is made.

        HoldsOptions(rows=("as_is", "words", "int4"), questions=24)

    Attributes:
      name: what the table calls the model.
      rows: some of `ROWS`.
      questions: at most so many questions of each kind, in every row.
      search_questions: at most so many for the searches of words and suffixes, which are not measured on them.
      shots: how many words, suffixes or beginnings each question is tried with.
      words, suffix, pixels: the searches.
      pruned: share of the weights that the row "pruned" sets to zero.
      forget_answers: judged answers of the model before unlearning to train.json; "relearned" and the depth need them.
      forgotten, steps, learning_rate: the relearning attack; see `training.relearning.RelearnOptions`.
      depth: requests of each kind that the depth is read on; 0 leaves it out.
      seed: draws the questions and the controls.
      batch_size, max_new_tokens: of the answers.

    Raises:
      InputError: there is no such row.
    """

    name: str = "model"
    rows: tuple[str, ...] = ROWS
    questions: int = 96
    search_questions: int = 24
    shots: int = 3
    words: WordOptions = WordOptions(shortlist=24, rescored=0)
    suffix: SuffixOptions = SuffixOptions(steps=20, candidates=64)
    pixels: PixelOptions = PixelOptions(steps=20)
    pruned: float = 0.2
    forget_answers: str | Path | None = None
    forgotten: int = 16
    steps: int = 20
    learning_rate: float = 1e-4
    depth: int = 48
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in ROWS] or not self.rows:
            raise InputError(f"--rows: {unknown or 'none'}; use some of {', '.join(ROWS)}")

    def settings(self) -> dict[str, Any]:
        """What a row's numbers depend on, JSON-ready: all but the name, and which rows are wanted."""
        kept = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("name", "rows")}
        return kept | {"forget_answers": None if self.forget_answers is None else str(self.forget_answers)}
