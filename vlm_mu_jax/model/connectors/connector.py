"""What every connector offers. Its configuration is the connector: a frozen dataclass with these methods."""

from typing import Protocol

from jax import Array

from vlm_mu_jax.model.params import Params, Specs


class Connector(Protocol):
    """The tower's states [.., P, E] to image tokens [.., tokens(P), D] as wide as the decoder.

    writes: names of the parameters that write into the residual stream; their last axis is D.
    """

    writes: tuple[str, ...]

    def tokens(self, P: int) -> int:
        """Image tokens of one encoded image of P states."""

    def specs(self, E: int, D: int) -> Specs:
        """Declaration of the parameters under `projector/`. E, D: width of the states and of the decoder."""

    def project(self, params: Params, states_BMPE: Array) -> Array:
        """[B, M, P, E] -> [B, M, tokens(P), D]."""

    def extra(self, params: Params) -> Array | None:
        """[X, D] learned tokens (a newline) that an image plan may put between features, or None."""

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        """Weights of every linear map, by parameter name, in the order they are applied."""

    def problems(self) -> list[str]:
        """What of the configuration cannot be; empty for a good one."""
