"""How one tensor of a Hugging Face file is laid out, and the row that says which parameter it is.

Every tower, connector and decoder declares its rows (`NAMES`) beside its parameters. `conversion/names.py` reads them
in both directions.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor is stored in the file, given its shape among our parameters (without the layer axis).

    transposed: the file has [out, in...], we have [in..., out...]; otherwise only the shape may differ.
    file_shape: our shape -> shape in the file. Both ways are exact: values are moved, never computed.
    """

    transposed: bool
    file_shape: Callable[[Shape], Shape]

    def to_ours(self, array: np.ndarray, shape: Shape) -> np.ndarray:
        """Tensor of the file -> array of `shape` (a view where possible)."""
        if not self.transposed:
            return array.reshape(shape)
        return array.reshape(array.shape[0], -1).T.reshape(shape)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Our array -> contiguous tensor of the file."""
        return np.ascontiguousarray(self.file_view(array))

    def file_view(self, array: np.ndarray) -> np.ndarray:
        """Our array -> tensor of the file, a view where possible."""
        shape = self.file_shape(array.shape)
        if self.transposed:
            array = array.reshape(-1, shape[0]).T
        return array.reshape(shape)


def _conv_shape(shape: Shape) -> Shape:
    """[3 p p, D] -> [D, 3, p, p], the weight of the convolution that cuts the image into patches."""
    side = math.isqrt(shape[0] // 3)
    return (shape[1], 3, side, side)


SAME = Layout(False, lambda shape: shape)
FLAT = Layout(False, lambda shape: (math.prod(shape),))  # biases of heads: [N, H] -> [N H]
LINEAR = Layout(True, lambda shape: (math.prod(shape[1:]), shape[0]))  # [D, N, H] -> [N H, D]
MERGE = Layout(True, lambda shape: (shape[-1], math.prod(shape[:-1])))  # [N, H, D] -> [D, N H]
CONV = Layout(True, _conv_shape)
KERNEL = Layout(True, lambda shape: (shape[-1], *shape[:-1]))  # [C, T, H, W, D] -> [D, C, T, H, W]


class Row(NamedTuple):
    """key: in the file; {l} is the layer, other braces are prefixes of a `Dialect`. path: of our parameter."""

    key: str
    path: str
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One spelling of a family's keys: the prefixes that fill the braces of its rows.

    rows: what a checkpoint of this spelling may hold; a model uses the rows whose parameter it has.
    vision: None for a text-only checkpoint. linear_1, linear_2: of a two-layer connector. connector: before the rest of
      its keys. newline: the whole key of the newline between rows of tiles.
    marks: parameters without which a model is not of this family.
    modules: spelled as the modules of the class of transformers >= 4.52 that reads it, as adapters have to be. Where
      no dialect of a family is, its usual one is.
    """

    name: str
    rows: tuple[Row, ...]
    text: str
    head: str
    vision: str | None = None
    linear_1: str | None = None
    linear_2: str | None = None
    newline: str | None = None
    connector: str | None = None
    marks: tuple[str, ...] = ()
    modules: bool = False

    @property
    def prefixes(self) -> dict[str, str]:
        """By the name in the braces."""
        return {
            "text": self.text,
            "head": self.head,
            "vision": self.vision or "",
            "linear_1": self.linear_1 or "",
            "linear_2": self.linear_2 or "",
            "newline": self.newline or "",
            "connector": self.connector or "",
        }
