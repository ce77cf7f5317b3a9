"""What every image plan offers: how a picture becomes encoded images, and what stands for it in a prompt.

A plan is the arithmetic that data and model share. `data/tiling.py` does the work on the pixels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.struct
import numpy as np

Size = tuple[int, int]  # height, width
Layout = tuple[str | int, ...]  # what stands for a picture in a prompt: texts, and runs of image tokens by their length


@dataclasses.dataclass(frozen=True)
class View:
    """How one encoded image is taken from a picture: scaled, centred on black, cut out; the image processor's own steps
    (`images.to_pixels`) follow.

    scaled: sizes that the picture is scaled to, one after the other.
    square: scaled to a square of the image processor's own size instead, whatever the picture's shape.
    canvas: size of the black picture in whose middle it is then put; None for none.
    box: (top, left, height, width) of the part that is cut out; None for all of it.
    padded: first of all padded to a square with this colour, 0..255, the picture in the middle; None for no padding.
    """

    scaled: tuple[Size, ...] = ()
    square: bool = False
    canvas: Size | None = None
    box: tuple[int, int, int, int] | None = None
    padded: tuple[int, int, int] | None = None


@flax.struct.dataclass
class Blend:
    """Image tokens that are weighted sums of features.

    index_QK: int32, which features each token blends. weight_QK: float32. In a batch both have rows in front.
    """

    index_QK: Any
    weight_QK: Any

    def __len__(self) -> int:
        return len(self.index_QK)


Table = np.ndarray | Blend  # int32 [Q], one feature for each token; or a blend of them


class ImagePlan(Protocol):
    """A picture -> encoded images -> image tokens.

    tiles: most encoded images of one picture. most_tokens: most image tokens of one picture.
    varies: whether the number of tokens depends on the picture's size; each token's feature is then named by `gather`.
    extra: features that the connector puts before those of the images (`connector.Connector.extra`).
    mark: what the chat template prints for a picture; None = the image token itself.
    """

    @property
    def tiles(self) -> int: ...

    @property
    def most_tokens(self) -> int: ...

    @property
    def varies(self) -> bool: ...

    @property
    def extra(self) -> int: ...

    @property
    def mark(self) -> str | None: ...

    def layout(self, size: Size) -> Layout:
        """What stands for a picture of this size in a prompt, in place of its mark."""

    def views(self, size: Size) -> tuple[View, ...]:
        """The encoded images of a picture of this size, at most `tiles`."""

    def gather(self, size: Size) -> Table | None:
        """Which feature each token of a picture of this size is. Features are counted from the connector's extra
        tokens, then come those of the encoded images, one after the other. None: all features in order."""

    def fitted(self, fields: Mapping[str, Any]) -> "ImagePlan":
        """The plan as an image processor's config makes it.

        Args:
          fields: content of preprocessor_config.json, with its class's defaults.

        Raises:
          ValueError: a field that contradicts the model or cannot be followed, by name.
        """

    def problems(self) -> list[str]:
        """What of the configuration cannot be; empty for a good one."""


class Cut:
    """What plans have in common whose tokens depend on the picture's size; see `ImagePlan`."""

    varies = True
    extra = 0
    mark = None


@dataclasses.dataclass(frozen=True)
class ImageProcessorKind:
    """A class of transformers that makes pixels of pictures.

    name: value of `image_processor_type`, without an ending such as "Fast".
    defaults: what the class means by a field that is not in its file.
    fields: further fields, which plans read (`ImagePlan.fitted`).
    plain: its fields -> those of CLIPImageProcessor for one encoded image, where they mean something else. Raises
      ValueError for a value that cannot be followed.
    pads_to_square: `do_pad` first pads a picture to a square with the mean colour; elsewhere it fills batches up.
    drawn: side of the pictures that are drawn for the model, such as blank ones; None = that of an encoded image.
    """

    name: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    plain: Callable[[dict[str, Any]], dict[str, Any]] = dict
    pads_to_square: bool = False
    drawn: int | None = None
