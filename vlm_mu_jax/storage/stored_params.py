"""The `params/` of a model folder: an Orbax checkpoint, read and written array by array.

The format is zarr 3 without compression: bfloat16 weights do not shrink, and zstd is several times slower than a disk.
One file is one layer of one array. It is cut into pieces along the axes that a mesh splits, so that a process reads the
bytes of its own shards alone. Orbax (`PyTreeCheckpointHandler`) and TensorStore read the format. In a job of several
processes Orbax writes, in its own format (OCDBT). Both formats are read.

Orbax alone is not enough for two reasons. A converter writes one layer at a time and never holds the model, which
Orbax's tree interface cannot do. This module is also faster: see rows `save` and `load` of `bin/bench storage`
(docs/performance.md).
"""

import contextlib
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.direct_file import DirectFile
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.parallel import rules

PARTS = {"fsdp": 16, "tensor": 8}  # a mesh axis of up to this size finds every shard in pieces of its own
_SMALLEST_BYTES = 128 * 2**10  # smaller pieces cost more to find than to read
_HOST_BYTES = 256 * 2**20  # larger arrays are fetched from the devices layer by layer
_PANEL_BYTES = 8 * 2**20  # what is transposed at a time


def piece_shape(spec: params_lib.ParamSpec, itemsize: int) -> tuple[int, ...]:
    """Shape of the pieces that an array is stored in: parts of one layer, cut along the axes that a mesh splits."""
    shape = [1 if axis == "layers" else size for axis, size in zip(spec.axes, spec.shape, strict=True)]
    for mesh_axis, parts in PARTS.items():
        for i, axis in enumerate(spec.axes):
            if axis is None or rules.RULES[axis] != mesh_axis:
                continue
            cuts = math.gcd(shape[i], parts)
            while cuts > 1 and math.prod(shape) * itemsize // cuts < _SMALLEST_BYTES:
                cuts //= 2
            shape[i] //= cuts
    return tuple(shape)


class ParamsWriter:
    """Writes params/ one layer of one array at a time, in any order; `with ParamsWriter(...) as w: w.write(...)`.

    Args:
      folder: the params/ folder, which must not exist.
      specs: declaration of every array.
      dtypes: path -> dtype of every array.
    """

    def __init__(self, folder: Path, specs: params_lib.Specs, dtypes: Mapping[str, np.dtype]):
        self._folder = resolved(folder)
        self._shapes = {path: spec.shape for path, spec in params_lib.flatten(specs).items()}
        self._pieces = {
            path: piece_shape(spec, dtypes[path].itemsize) for path, spec in params_lib.flatten(specs).items()
        }
        self._cpu = jax.local_devices(backend="cpu")[0]
        self._folder.mkdir()
        layered = {path for path, spec in params_lib.flatten(specs).items() if spec.axes[:1] == ("layers",)}
        creating = [
            _create(self._folder, path, shape, path in layered, self._pieces[path], dtypes[path])
            for path, shape in self._shapes.items()
        ]
        for array in creating:
            array.result()

    def __enter__(self) -> "ParamsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Completes the Orbax checkpoint, unless there was an error."""
        if kind is None:
            _write_metadata(self._folder, self._shapes)

    def write(self, path: str, layer: int | None, array: np.ndarray) -> None:
        """Writes one layer of an array, or (None) the whole of an array without layers.

        The array may have any strides: JAX transposes several times faster than numpy. Threads may write different
        layers at a time.
        """
        piece = self._pieces[path] if layer is None else self._pieces[path][1:]
        grid = [size // part for size, part in zip(array.shape, piece, strict=True)]
        rank, nbytes = len(grid), math.prod(piece) * array.itemsize
        split = array.reshape([n for pair in zip(grid, piece, strict=True) for n in pair])
        pieces = split.transpose([*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)])  # [*grid, *piece]
        index = [] if layer is None else [layer]
        file = ".".join(["c", *map(str, index + [0] * rank)])
        with _new_file(self._folder / _name(path), file) as out:
            for rows in _panels(pieces, rank):
                out.write(np.asarray(jax.device_put(rows, self._cpu)))
            starts = np.arange(math.prod(grid), dtype="<u8") * nbytes
            out.write(np.stack([starts, np.full_like(starts, nbytes)], axis=1))  # zarr's index of a file: start, length


class _Object:
    """What `DirectFile` is, in a bucket: the bytes are sent at the end, as one object."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name, self._parts = folder, name, []

    def __enter__(self) -> "_Object":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            import tensorstore as ts

            store = ts.KvStore.open(buckets.kvstore(self._folder), context=_context()).result()
            store.write(self._name, b"".join(self._parts)).result()

    def write(self, array: np.ndarray) -> None:
        self._parts.append(array.reshape(-1).view(np.uint8).tobytes())


def _new_file(folder: Path, name: str) -> DirectFile | _Object:
    return DirectFile(folder / name) if buckets.remote(folder) is None else _Object(folder, name)


def _panels(pieces: np.ndarray, rank: int) -> Iterator[np.ndarray]:
    """Runs of pieces that are small enough to be transposed within the CPU's cache."""
    if pieces.nbytes > _PANEL_BYTES and rank:
        for rows in pieces:
            yield from _panels(rows, rank - 1)
    else:
        yield pieces


def _create(
    folder: Path, path: str, shape: tuple[int, ...], layered: bool, piece: tuple[int, ...], dtype: np.dtype
) -> Any:
    """Future of an array's declaration, its zarr.json. It says which files there are and which pieces they hold."""
    import tensorstore as ts

    numbers = {"name": "bytes", "configuration": {"endian": "little"}}
    layout = {"chunk_shape": piece, "codecs": [numbers], "index_codecs": [numbers], "index_location": "end"}
    metadata = {
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": (1, *shape[1:]) if layered else shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},  # files, not folders
        "codecs": [{"name": "sharding_indexed", "configuration": layout}],
    }
    return ts.open({**_spec(folder, path), "metadata": metadata, "create": True}, context=_context())


def _write_metadata(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes Orbax's own files: the tree's structure (_METADATA) and what can read it (_CHECKPOINT_METADATA)."""
    tree = {}
    for path, shape in shapes.items():
        keys = tuple(path.split("/"))
        tree[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: of a dict
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False, "write_shape": shape},
        }
    content = {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    now = time.time_ns()
    checkpoint = {
        "item_handlers": "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler",
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": now,
        "commit_timestamp_nsecs": now,
        "custom_metadata": {},
    }
    for name, value in (("_METADATA", content), ("_CHECKPOINT_METADATA", checkpoint)):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


class ParamsReader:
    """Reads params/ array by array, in either format. Threads may share a reader.

    arrays: path -> shape and dtype of what params/ holds.

    Raises:
      InputError: params/ is missing or damaged.
    """

    def __init__(self, folder: Path):
        self._folder = resolved(folder)
        with _explained(self._folder):
            about = json.loads((self._folder / "_METADATA").read_text(encoding="utf-8"))
            driver = "zarr3" if about.get("use_zarr3") else "zarr"
            keys = [entry["key_metadata"] for entry in about["tree_metadata"].values()]
            paths = ["/".join(key["key"] for key in entry) for entry in keys]
            opening = {path: _open(self._folder, path, driver) for path in paths}
            self._stores = {path: store.result() for path, store in opening.items()}
        self.arrays = {
            path: jax.ShapeDtypeStruct(store.shape, store.dtype.numpy_dtype) for path, store in self._stores.items()
        }

    def read(self, path: str, layer: int | None, into: np.ndarray) -> np.ndarray:
        """One layer of an array, or (None) the whole array, in memory of the caller.

        Args:
          into: bytes [N], at least as many as are read.

        Raises:
          InputError: it cannot be read.
        """
        import tensorstore as ts

        store = self._stores[path] if layer is None else self._stores[path][layer]
        dtype = store.dtype.numpy_dtype
        array = into[: math.prod(store.shape) * dtype.itemsize].view(dtype).reshape(store.shape)
        with _explained(self._folder):
            ts.array(array).write(store).result()
        return array

    def read_sharded(self, path: str, sharding: jax.sharding.Sharding) -> jax.Array:
        """A whole array. Each process reads the parts that its own devices hold, and each part once.

        Raises:
          InputError: it cannot be read.
        """
        store = self._stores[path]
        with _explained(self._folder):
            held = {
                _box(index, store.shape) for index in sharding.addressable_devices_indices_map(store.shape).values()
            }
            parts = _read_boxes(store, held)
            return jax.make_array_from_callback(store.shape, sharding, lambda index: parts[_box(index, store.shape)])


Box = tuple[tuple[int, int], ...]  # (first, end) along every axis


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _read_boxes(store: Any, boxes: set[Box]) -> dict[Box, np.ndarray]:
    """Parts of an array. Parts that together fill a box are read at once, because they may share stored pieces."""
    hull = tuple((min(low for low, _ in axis), max(end for _, end in axis)) for axis in zip(*boxes, strict=True))
    if _size(hull) != sum(map(_size, boxes)):
        return {box: store[_slices(box)].read().result() for box in boxes}
    whole = store[_slices(hull)].read().result()
    lows = [low for low, _ in hull]
    return {
        box: whole[_slices(tuple((low - by, end - by) for (low, end), by in zip(box, lows, strict=True)))]
        for box in boxes
    }


def _size(box: Box) -> int:
    return math.prod(end - low for low, end in box)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, end) for low, end in box)


def save(folder: Path, params: Mapping[str, Any], specs: params_lib.Specs) -> None:
    """Writes a whole tree of arrays in memory. They may be numpy's or JAX's, sharded or not.

    In a job of several processes every process must call it.
    """
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp

        writer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        writer.save(buckets.remote(folder) or resolved(folder), args=ocp.args.PyTreeSave(dict(params)))
        return
    flat = params_lib.flatten(params)
    with ParamsWriter(folder, specs, {path: np.dtype(leaf.dtype) for path, leaf in flat.items()}) as writer:
        for path, spec in params_lib.flatten(specs).items():
            leaf = flat[path]
            if leaf.nbytes <= _HOST_BYTES:
                leaf = np.asarray(leaf)
            for layer in range(spec.shape[0]) if spec.axes[:1] == ("layers",) else [None]:
                writer.write(path, layer, np.asarray(leaf if layer is None else leaf[layer]))


def load(folder: Path, specs: params_lib.Specs, mesh: jax.sharding.Mesh | None = None) -> params_lib.Params:
    """Restores all arrays as JAX arrays, one after the other, in the dtype that they were saved in.

    Args:
      folder: the params/ folder.
      specs: what it must hold, exactly.
      mesh: the mesh to shard over by the rule table, each process reading its own shards. None puts everything on the
        first device.

    Raises:
      InputError: the weights belong to another model, or cannot be read.
    """
    reader = ParamsReader(folder)
    params_lib.check_params(params_lib.unflatten(reader.arrays), specs, str(folder.parent))
    if mesh is None:
        shardings = dict.fromkeys(reader.arrays, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    else:
        shardings = params_lib.flatten(rules.shardings(specs, mesh))
    return params_lib.unflatten({path: reader.read_sharded(path, shardings[path]) for path in shardings})


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns whatever missing or damaged files raise into one line."""
    if not folder.is_dir():
        raise InputError(f"{folder}: missing; convert or train the model again")
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        what = f"cannot be read ({type(error).__name__}: {reason})"
        raise InputError(f"{folder}: {what}; convert or train the model again") from error


def _name(path: str) -> str:
    """Folder of an array, as Orbax names it."""
    return path.replace("/", ".")


def _open(folder: Path, path: str, driver: str) -> Any:
    """Future of an array that is there already. A missing part is an error, and is not read as zeros."""
    import tensorstore as ts

    spec = _spec(folder, path) | {"driver": driver, "fill_missing_data_reads": False}
    if (folder / "manifest.ocdbt").is_file():
        spec["kvstore"] = {
            "driver": "ocdbt",
            "base": buckets.kvstore(folder),
            "path": f"{_name(path)}/",
        }
    return ts.open(spec, read=True, context=_context())


def _spec(folder: Path, path: str) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": buckets.kvstore(folder / _name(path))}


@functools.cache
def _context() -> Any:
    import tensorstore as ts

    return ts.Context({"file_io_sync": False})  # folders.py has all files written at once
