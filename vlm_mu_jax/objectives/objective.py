"""An objective: a weighted sum of terms, each of which reads one or two streams of data.

    loss = sum over terms of weight * term

Forget terms, retain terms and cross-entropy on general data all have this one shape, so any of them combine. What
several terms ask of one stream is read in one go.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals

OPTIONAL_STREAMS = ("general",)  # terms on these are left out of a run that has no such data


class Term:
    """Base of all terms.

    `loss` returns the share of one micro-batch. Shares and metrics add up over a step.

    Attributes:
      couples_batch: whether the value depends on which examples share a batch. Micro-batches cannot add up to it then.
      reference_nll_streams: streams whose rows must carry `reference_nll_B`, which is computed once before training.
    """

    couples_batch: ClassVar[bool] = False
    reference_nll_streams: tuple[str, ...] = ()

    def reads(self) -> dict[str, Read]:
        """What to read of which stream."""
        raise NotImplementedError

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        """Counts of these rows; entries of one name have one meaning in all terms."""
        raise NotImplementedError

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        """Scalar loss in float32 and scalar metrics."""
        raise NotImplementedError

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        """Arrays drawn once for the whole run and stored with it; width: of the residual stream."""
        return {}

    def duals(self) -> dict[str, Array]:
        """Start values of scalars that follow the metrics from step to step."""
        return {}

    def next_duals(self, duals: Mapping[str, Array], metrics: Metrics, step: Array) -> dict[str, Array]:
        """Their values after `step` (0-based)."""
        return {}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. Everything that training asks of an objective is derived from them.

    Attributes:
      terms: (weight, term) pairs.
    """

    terms: tuple[tuple[float, Term], ...]

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams without which it cannot run."""
        return tuple(name for name in self._all_streams() if name not in OPTIONAL_STREAMS)

    @property
    def optional_streams(self) -> tuple[str, ...]:
        return tuple(name for name in self._all_streams() if name in OPTIONAL_STREAMS)

    @property
    def needs_reference(self) -> bool:
        """Whether the weights before training are needed in every step (and so must be kept in memory)."""
        return any(read.needs_reference for _, term in self.terms for read in term.reads().values())

    @property
    def reference_nll_streams(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.reference_nll_streams))

    @property
    def couples_batch(self) -> bool:
        return any(term.couples_batch for _, term in self.terms)

    def part(self, forgets: bool) -> "Objective | None":
        """Only the terms that read forget data, or only the others; None when there are none."""
        chosen = tuple((weight, term) for weight, term in self.terms if ("forget" in term.reads()) == forgets)
        return Objective(chosen) if chosen else None

    def reads(self, present: Mapping[str, Any]) -> dict[str, Read]:
        """What is read of every stream that is present."""
        merged: dict[str, Read] = {}
        for _, term in self._active(present):
            for name, read in term.reads().items():
                merged[name] = merged.get(name, Read()) | read
        return merged

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return _merged(term.constants(width, seed) for _, term in self.terms)

    def duals(self) -> dict[str, Array]:
        return _merged(term.duals() for _, term in self.terms)

    def next_duals(self, duals: Mapping[str, Array], metrics: Metrics, step: Array) -> dict[str, Array]:
        return _merged(term.next_duals(duals, metrics, step) for _, term in self.terms)

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        """Counts of these rows, to be summed over the micro-batches of a step."""
        return _merged(term.denominators(rows, image_token_id) for _, term in self._active(rows))

    def loss(self, policy: Policy, rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        """These rows' share of the step's loss, and of its metrics.

        Args:
          rows: `TrainBatch` by stream name.
          totals: the sums of `denominators` over the whole step.
        """
        seen = policy.read(rows, self.reads(rows))
        loss, metrics = jnp.float32(0.0), {}
        for weight, term in self._active(rows):
            value, more = term.loss(policy, seen, rows, totals)
            loss, metrics = loss + weight * value, {**metrics, **more}
        return loss, metrics

    def _all_streams(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.reads()))

    def _active(self, present: Mapping[str, Any]) -> list[tuple[float, Term]]:
        return [pair for pair in self.terms if all(n in present or n not in OPTIONAL_STREAMS for n in pair[1].reads())]


def _merged(parts: Any) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}
