"""A guard as an attack takes it: in its searches, in its answers, and in what identifies it.

The state of a guard's gates decides how the prompt's earlier tokens are steered, so candidates may share a prefix cache
(`prefix.py`) only with candidates of the same gates. Two kinds of guard decide about the prompt as a whole:

- from a first pass without steering, once per example (`FirstPass`): the gates are computed for every candidate, and
  each group of equal gates gets a cache of its own;
- layer by layer while the prompt runs: candidates run on the cache of presumed gates, and count only where the gates
  they decide are the presumed ones. The others run again on the cache of the gates they decided. A layer's gate depends
  on earlier layers only, so every round settles at least one more layer: it ends, and is exact.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.attacks.margin.margin import CandidateRows, last_states
from vlm_mu_jax.data.placing import without_first
from vlm_mu_jax.data.prompts import Images
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer, on_prefix
from vlm_mu_jax.steering.guard import Guard, SteerPerBatch, open_guard
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class FirstPass:
    """A guard that decides once per example, from the unsteered states of a first pass.

    steer_of: states at each prompt's last token after every block, float32 [L, B, D] -> `Steer` with gate_LB.
    text_only: the first pass reads the question without its image. It never reads what the answer starts with.
    erased_words: it also reads the question without its first word, ... without its first so many, and a gate is open
      where it opens on one of these texts.
    """

    steer_of: Callable[[np.ndarray], Steer]
    text_only: bool
    erased_words: int = 0

    def texts(self, question: str) -> list[str]:
        """The texts that the first pass reads of a question."""
        return [without_first(question, count) for count in range(self.erased_words + 1)]

    def check_whole(self, method: str) -> None:
        """Raises InputError where the first pass reads shortened texts as well, which `method` does not run."""
        if self.erased_words:
            raise InputError(
                f"--method={method}: the guard's gate also reads prompts without their first words, which this search"
                " does not run; attack it with words, prefill or paraphrase"
            )

    def reads(self, images: Images, context: Context | None) -> tuple[Images, Context | None]:
        """What the first pass reads of a prompt's images and of the conversation around its question."""
        return ((), context and context.without_images()) if self.text_only else (images, context)

    def decided(self, params: Params, rows: CandidateRows, cfg: ModelConfig, lora: Mapping[str, Any] | None) -> Steer:
        """The guard with the gates [L, C] that it decides on these rows, which hold what it `reads`."""
        return self.steer_of(np.asarray(last_states(params, rows, cfg=cfg, lora=lora)))


@dataclasses.dataclass(frozen=True)
class AttackGuard:
    """The guard of an attacked model; all None without one.

    Attributes:
      answers: as functions that answer questions take it.
      search: as searches take it.
      sha256: identifies it.
    """

    answers: Steer | SteerPerBatch | None = None
    search: Steer | FirstPass | None = None
    sha256: str | None = None


def attack_guard(model: Model, guard: str | Path | Guard | None, searches: bool) -> AttackGuard:
    """Opens a guard for an attack.

    Args:
      guard: a guard folder, a guard, or None.
      searches: whether the attack searches. Without a search any guard will do.

    Raises:
      InputError: the folder holds no guard of this model, or the guard leaves candidates no common prefix to search on.
    """
    if guard is None:
        return AttackGuard()
    if isinstance(guard, Guard):
        steer, name, sha256 = guard.steer(model), "guard", _digest(guard)
    else:
        steer, facts = open_guard(model, guard)
        name, sha256 = str(guard), facts["sha256"]
    return AttackGuard(steer, search_steer(steer, name) if searches else None, sha256)


def search_steer(steer: Steer | SteerPerBatch, name: str) -> Steer | FirstPass:
    """What steers a search, from what steers the answers. name: of the guard, for the error.

    Raises:
      InputError: the guard adds a component that it reads off every prompt, or writes all of it by a linear gate.
    """
    if not isinstance(steer, SteerPerBatch):
        if steer.linear and on_prefix(steer) is not None:
            raise InputError(
                f"--guard={name}: a linear gate moves a prompt's earlier tokens by another amount for every candidate,"
                " which share no prefix then; search the guard with --scope=last"
            )
        return steer
    options = steer.guard.options
    if options.component != "token":
        raise InputError(
            f"--guard={name}: adds a component that a first pass reads off every prompt anew, so candidates"
            " share no prefix to search on; attack it with --method=prefill, paraphrase, blank, noise or typographic"
        )
    return FirstPass(steer.guard.as_steer, options.first_pass_reads_text, options.erased_words)


def _digest(guard: Guard) -> str:
    arrays = {name: value for name, value in vars(guard.directions).items() if value is not None}
    arrays |= {name: value for name, value in vars(guard.scores).items() if value is not None}
    parts = (weights_hash(arrays | {"gate_LD": guard.gate_LD}), repr(guard.options))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def depends_on_gates(steer: Steer | None) -> bool:
    """Whether the cache is another one for another outcome of the guard's gates."""
    return on_prefix(steer) is not None and steer.gated


def by_gates(gate_LN: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of equal gates: (gates bool [L], candidate numbers), the largest group first."""
    patterns, group_N = np.unique(gate_LN.astype(bool).T, axis=0, return_inverse=True)
    groups = [(pattern, np.flatnonzero(group_N.reshape(-1) == g)) for g, pattern in enumerate(patterns)]
    return sorted(groups, key=lambda item: -len(item[1]))
