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
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.data.tiling import Tiles
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

    The streams come back unchanged in three cases: when there are no images; in a job of several processes, where each
    would need all images; and when the output for all images is larger than MOST_BYTES.

    Args:
      params: the weights, on the mesh. The tower must not train.
      streams: by name.
      cfg: the model's configuration.
      mesh: the devices.
      cache: folder of the file; None keeps the features in memory.
      progress: shown over the images that are encoded.
    """
    images, load = _images(streams)
    if not images or jax.process_count() > 1:
        return dict(streams)
    first = load(images[0])
    tower = jax.eval_shape(lambda p: encode_tower(p, jnp.asarray(_array(first)[None]), cfg), params)
    all_of_it = jax.ShapeDtypeStruct((len(images), *tower.shape[1:]), tower.dtype)
    size = all_of_it.size * tower.dtype.itemsize
    if size > MOST_BYTES["disk" if cache else "memory"]:
        return dict(streams)
    known = None if cache is None else cache / f"vision_{_name(params, images, load)}.bin"
    if known is not None and known.is_file() and known.stat().st_size == size:
        stored = np.memmap(known, tower.dtype, "r", shape=all_of_it.shape)
    else:
        stored = _encoded(params, images, load, cfg, mesh, all_of_it, known, progress)
    place = {_identity(image): i for i, image in enumerate(images)}
    tiled = isinstance(first, Tiles)
    gathers = [dataclasses.replace(one, pixels_MHWC=_NOTHING) for one in map(load, images)] if tiled else []

    def features(image: Any) -> Pixels:
        i = place[_identity(image)]
        return dataclasses.replace(gathers[i], pixels_MHWC=stored[i]) if tiled else stored[i, 0]

    return {name: stream.with_features(features) for name, stream in streams.items()}


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


def _array(image: Pixels) -> np.ndarray:
    """[M, H, W, C]"""
    return image.pixels_MHWC if isinstance(image, Tiles) else image[None]


def _name(params: Params, images: Sequence[Any], load: Callable[[Any], Pixels]) -> str:
    digest = hashlib.sha256(weights_hash(params["vision"]).encode())
    for image in images:
        digest.update(hashlib.sha256(load(image).tobytes()).digest())
    return digest.hexdigest()[:16]


def _encoded(
    params: Params,
    images: Sequence[Any],
    load: Callable[[Any], Pixels],
    cfg: ModelConfig,
    mesh: Mesh,
    like: jax.ShapeDtypeStruct,
    file: Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Runs the tower; the result is `like` that. A file appears under its name only when it is complete."""
    encode = OnMesh(jax.jit(lambda p, x: encode_tower(p, x, cfg), out_shardings=replicated(mesh)), mesh)
    if file is None:
        return _fill(np.empty(like.shape, like.dtype), encode, params, images, load, mesh, progress)
    with complete_file(file) as partial:
        stored = np.memmap(partial, like.dtype, "w+", shape=like.shape)
        _fill(stored, encode, params, images, load, mesh, progress).flush()
    return np.memmap(file, like.dtype, "r", shape=like.shape)


def _fill(
    stored: Any,
    encode: OnMesh,
    params: Params,
    images: Sequence[Any],
    load: Callable[[Any], Pixels],
    mesh: Mesh,
    progress: Progress | None,
) -> Any:
    size = IMAGES * batch_shards(mesh)
    show = progress or (lambda items, label, total=None: items)
    starts = range(0, len(images), size)
    for start in show(starts, "image features", len(starts)):
        chosen = [_array(load(image)) for image in images[start : start + size]]
        padded = np.stack(chosen + chosen[:1] * (size - len(chosen)))  # one shape, one program
        made = jax.device_get(encode(params, put_batch(padded, mesh, size)))
        stored[start : start + len(chosen)] = made[: len(chosen)]
    return stored
