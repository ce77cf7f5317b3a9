"""Image features: the output of a frozen vision tower for every image, computed once before training.

The tower's output is kept and not the projector's, so that the projector may train. It is also the smaller one: 1.2 MB
per image of LLaVA-1.5 in bfloat16. It lies in one file, which the operating system maps into memory. The file is named
by the hash of the tower's weights and of the pixels of all images, so other weights or images never find it. Without a
folder it is kept in memory.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data import tiling
from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.data.tiling import Stacked, Tiles
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.vlm import encode_tower
from vlm_mu_jax.parallel.activations import OnMesh
from vlm_mu_jax.parallel.mesh import batch_shards, put_batch, replicated
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.identity import weights_hash

Pixels = np.ndarray | Tiles
_NOTHING = np.zeros(0, np.float32)

MOST_BYTES = {"memory": 4 << 30, "disk": 64 << 30}  # more is not kept; the tower then runs in every step
IMAGES = 8  # encoded at a time, per device


def with_features(
    params: Params,
    streams: Mapping[str, Stream],
    cfg: ModelConfig,
    mesh: Mesh,
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> dict[str, Stream]:
    """The same streams, whose batches hold the tower's output instead of pixels.

    The streams come back unchanged in four cases: when there are no images; in a job of several processes, where each
    would need all images; with long data, of which few images are read at first; and when the output for all images is
    larger than MOST_BYTES.

    Args:
      params: the weights, on the mesh. The tower must not train.
      streams: by name.
      cfg: the model's configuration.
      mesh: the devices.
      cache: folder of the file; None keeps the features in memory.
      progress: shown over the images that are encoded.
    """
    if jax.process_count() > 1 or any(stream.is_long for stream in streams.values()):
        return dict(streams)
    images, load = _images(streams)
    if not images:
        return dict(streams)
    known = [_without_pixels(load(image)) for image in images] if isinstance(load(images[0]), Tiles) else []
    place = _Place.of([count for _, count in known] or [1] * len(images))

    def image_features(p: Params, x: jax.Array, grid: jax.Array | None) -> jax.Array:
        return encode_tower(p, x, cfg, grid)

    encode = OnMesh(jax.jit(image_features, out_shardings=replicated(mesh)), mesh)
    some = _stacked(load, images[:1])
    tower = jax.eval_shape(lambda p: encode_tower(p, some.pixels_BMHWC, cfg, some.grid_BI2), params)
    like = jax.ShapeDtypeStruct((place.ends[-1], *tower.shape[2:]), tower.dtype)
    size = like.size * like.dtype.itemsize
    if size > MOST_BYTES["disk" if cache else "memory"]:
        return dict(streams)
    file = None if cache is None else cache / f"vision_{_name(params, images, load)}.bin"
    if file is not None and file.is_file() and file.stat().st_size == size:
        stored = np.memmap(file, like.dtype, "r", shape=like.shape)
    else:
        stored = _encoded(encode, params, images, load, mesh, place, like, file, progress)
    number = {_identity(image): i for i, image in enumerate(images)}

    def features(image: Any) -> Pixels:
        i = number[_identity(image)]
        states = stored[place.of_image(i)]
        return dataclasses.replace(known[i][0], pixels_MHWC=states) if known else states[0]

    return {name: stream.with_features(features) for name, stream in streams.items()}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an image's states lie among those of all images. ends: of every image."""

    ends: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[int]) -> "_Place":
        return cls(tuple(np.cumsum(counts).tolist()))

    def of_image(self, i: int) -> slice:
        return slice(self.ends[i - 1] if i else 0, self.ends[i])


def _without_pixels(image: Tiles) -> tuple[Tiles, int]:
    """(the image without its pixels, how many encoded images it has)."""
    return dataclasses.replace(image, pixels_MHWC=_NOTHING), len(image.pixels_MHWC)


def _images(streams: Mapping[str, Stream]) -> tuple[list[Any], Callable[[Any], Pixels]]:
    """Every image once, and what loads one."""
    found: dict[Any, tuple[Any, Stream]] = {}
    for stream in streams.values():
        for row in stream.rows:
            found |= {_identity(image): (image, stream) for image in row.images if _identity(image) not in found}
    owner = {key: stream for key, (_, stream) in found.items()}
    return [image for image, _ in found.values()], lambda image: owner[_identity(image)].pixels(image)


def _identity(image: Any) -> Any:
    """Rows hold keys of images, or images themselves."""
    return id(image) if isinstance(image, np.ndarray | Tiles) else str(image)


def _stacked(load: Callable[[Any], Pixels], images: Sequence[Any]) -> Stacked:
    """Rows of one image each. Images of any size get room for the largest of them, rounded up: few programs."""
    loaded = [load(image) for image in images]
    tokens = max((len(image.gather_Q) for image in loaded if isinstance(image, Tiles)), default=1)
    return tiling.stack([[image] for image in loaded], 1, loaded[0], width=tokens, tokens=bucket(tokens))


def _name(params: Params, images: Sequence[Any], load: Callable[[Any], Pixels]) -> str:
    digest = hashlib.sha256(weights_hash(params["vision"]).encode())
    for image in images:
        digest.update(hashlib.sha256(load(image).tobytes()).digest())
    return digest.hexdigest()[:16]


def _encoded(
    encode: OnMesh,
    params: Params,
    images: Sequence[Any],
    load: Callable[[Any], Pixels],
    mesh: Mesh,
    place: _Place,
    like: jax.ShapeDtypeStruct,
    file: Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Runs the tower; the result is `like` that. A file appears under its name only when it is complete."""
    if file is None:
        return _fill(np.empty(like.shape, like.dtype), encode, params, images, load, mesh, place, progress)
    with complete_file(file) as partial:
        stored = np.memmap(partial, like.dtype, "w+", shape=like.shape)
        _fill(stored, encode, params, images, load, mesh, place, progress).flush()
    return np.memmap(file, like.dtype, "r", shape=like.shape)


def _fill(
    stored: Any,
    encode: OnMesh,
    params: Params,
    images: Sequence[Any],
    load: Callable[[Any], Pixels],
    mesh: Mesh,
    place: _Place,
    progress: Progress | None,
) -> Any:
    size = IMAGES * batch_shards(mesh)
    show = progress or (lambda items, label, total=None: items)
    at = [place.of_image(i) for i in range(len(images))]
    order = sorted(range(len(images)), key=lambda i: at[i].stop - at[i].start)  # like sizes together
    starts = range(0, len(images), size)
    for start in show(starts, "image features", len(starts)):
        chosen = order[start : start + size]
        full = chosen + chosen[:1] * (size - len(chosen))  # one shape, one program
        shown = _stacked(load, [images[i] for i in full])
        grids = None if shown.grid_BI2 is None else put_batch(shown.grid_BI2, mesh, size)
        made = jax.device_get(encode(params, put_batch(shown.pixels_BMHWC, mesh, size), grids))
        for states, i in zip(made, chosen, strict=False):
            stored[at[i]] = states[: at[i].stop - at[i].start]
    return stored
