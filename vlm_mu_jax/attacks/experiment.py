"""What every attack on a model stands on: the questions searched and verified, real answers, a judge, its own files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from vlm_mu_jax.attacks.in_turn import Progress
from vlm_mu_jax.attacks.margins_file import MarginsFile
from vlm_mu_jax.attacks.measure import Verifier
from vlm_mu_jax.attacks.prefix import FirstPass
from vlm_mu_jax.attacks.questions import pick
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.evaluation.judges import Judge
from vlm_mu_jax.model.steer import Steer


@dataclasses.dataclass(frozen=True)
class Settings:
    """goals: of "jailbreak" and "over_refuse". shots: K, how often a question is tried. search_questions,
    verify_questions: at most so many per goal (None = all). batch_size, max_new_tokens: of the answers."""

    goals: tuple[str, ...] = ("jailbreak", "over_refuse")
    shots: int = 3
    search_questions: int | None = 32
    verify_questions: int | None = None
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 64


@dataclasses.dataclass
class Experiment:
    """model: what `vlm_mu_jax.load` returns. answers: file that collects all answers.

    steer: the guard as the search takes it; answer_steer: the same guard as `evaluation.answers` takes it.
    file: finished questions, from which a killed search continues. meshes: see `search.search`.
    """

    model: Any
    search: Records
    verify: Records
    judge: Judge
    answers: Path
    settings: Settings
    steer: Steer | FirstPass | None = None
    answer_steer: Any = None
    progress: Progress | None = None
    file: MarginsFile | None = None
    meshes: Sequence[Mesh] = ()

    def to_search(self, goal: str) -> Records:
        """The questions a search for the goal uses. Raises InputError when there is none."""
        return pick(self.search, goal, self.settings.search_questions, self.settings.seed)

    def to_verify(self, goal: str) -> Records:
        """The questions it is measured on, which a search never sees."""
        return pick(self.verify, goal, self.settings.verify_questions, self.settings.seed)

    @property
    def verifier(self) -> Verifier:
        use = self.settings
        return Verifier(
            self.model, self.judge, self.answers, use.batch_size, use.max_new_tokens, self.answer_steer, self.progress
        )
