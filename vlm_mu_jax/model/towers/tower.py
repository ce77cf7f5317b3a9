"""What every vision tower offers. A tower's configuration is the tower: a frozen dataclass with these methods."""

from typing import Protocol

from jax import Array

from vlm_mu_jax.model.params import Params, Specs


class Tower(Protocol):
    """Images of one size to hidden states.

    image_size: side of the square images, pixels. P: states of one image. E: width of a state.
    """

    image_size: int

    @property
    def P(self) -> int: ...

    @property
    def E(self) -> int: ...

    def specs(self) -> Specs:
        """Declaration of the parameters under `vision/`."""

    def encode(self, params: Params, pixels_IHWC: Array) -> Array:
        """Normalised float pixels [I, size, size, 3] -> [I, P, E].

        A tower that reads pictures of any size has patches for images, and takes rows of them with the grids of the
        pictures (`vlm.Batch`): [B, M, size, size, 3] and [B, I, 2] -> [B, M, 1, E].
        """

    def flops(self, images: int = 1) -> float:
        """Of so many images, two per multiply-add."""

    def problems(self) -> list[str]:
        """What of the configuration cannot be; empty for a good one."""
