"""Log-probabilities under the model before training, once per example, kept on disk.

NPO and DPO compare with the untrained model in every step, but need only one number per example. It is computed before
training, for the examples that the run's steps read, and found again by a hash of the weights and of the example (token
ids, loss mask and pixels; the ids hold template and tokenizer). These objectives therefore keep no second copy of the
weights, and their steps run no reference pass. KL, UNDIAL and Hold need more than a number; see `trainable.split`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.files import lines
from vlm_mu_jax.files.json_file import parse_json
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.activations import OnMesh
from vlm_mu_jax.parallel.mesh import process_rows, put_batch, replicated
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.model_policy import ModelPolicy


def reference_nll(
    params: Params,
    stream: Stream,
    cfg: ModelConfig,
    mesh: Mesh,
    *,
    rows_per_batch: int,
    rows: Sequence[int] | None = None,
    cache: Path | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The summed answer NLL of rows of a stream under `params`, in nats.

    Args:
      params: the weights, on the mesh.
      stream: the rows.
      cfg: the model's configuration.
      mesh: the devices.
      rows_per_batch: rows of one forward pass; a multiple of the mesh's batch shards.
      rows: which rows of the stream are wanted; by default all.
      cache: folder of the cache (one file per weights hash), None to compute without one.
      weights: hash of `params`, when it is known already.
      progress: shown over the batches.

    Returns:
      float32 [rows of the stream]; NaN for rows that are not wanted.
    """
    wanted = list(range(len(stream.rows)) if rows is None else rows)
    positions = process_rows(mesh, rows_per_batch)
    own = set(positions.tolist())  # no process reads another's images
    mine = [i for i in range(len(wanted)) if i % rows_per_batch in own]
    keys = _keys(stream, wanted, mine)
    file = None if cache is None else cache / f"reference_{(weights or weights_hash(params))[:16]}.jsonl"
    nll = _known(file, keys)
    todo = sorted((i for i in mine if np.isnan(nll[i])), key=lambda i: len(stream.rows[wanted[i]].ids))
    size = len(positions)
    blocks = int(distributed.maximum(np.array(-(-len(todo) // size))))

    def reference(p: Params, rows: Any) -> jax.Array:
        return ModelPolicy(p, None, None, cfg, {}).nll(rows)[0]

    score = OnMesh(jax.jit(reference, out_shardings=replicated(mesh)), mesh)
    show = progress or (lambda items, label, total=None: items)
    for start in show(range(0, blocks * size, size), f"reference {stream.name}", blocks):
        chosen = todo[start : start + size]
        padded = chosen + (chosen or mine or [0])[:1] * (size - len(chosen))  # as many programs as stream.lengths
        indices = [wanted[i] for i in padded]
        length = int(distributed.maximum(np.array(stream.fit(indices))))
        nll_B = jax.device_get(score(params, put_batch(stream.take(indices, length), mesh, rows_per_batch)))
        fresh = np.full(len(keys), -np.inf, np.float32)
        fresh[chosen] = nll_B[positions][: len(chosen)]
        fresh = distributed.maximum(fresh)
        new = np.flatnonzero(np.isfinite(fresh))
        nll[new] = fresh[new]
        _append(file, {keys[i]: float(fresh[i]) for i in new})
    of_all = np.full(len(stream.rows), np.nan, np.float32)
    of_all[wanted] = nll
    return of_all


def rows_of_steps(stream: Stream, steps: int) -> list[int]:
    """The rows that batches 0 .. steps - 1 of a stream hold, in order."""
    seen: set[int] = set()
    for k in range(steps):
        seen.update(stream.indices(k).tolist())
        if len(seen) == len(stream.rows):
            break
    return sorted(seen)


def _keys(stream: Stream, wanted: Sequence[int], mine: Sequence[int]) -> list[str]:
    """Keys of the wanted rows; every process computes those of its own positions among them."""
    digests = np.zeros((len(wanted), 32), np.uint8)
    for i in mine:
        digests[i] = np.frombuffer(bytes.fromhex(stream.row_key(wanted[i])), np.uint8)
    return [digest.tobytes().hex() for digest in distributed.maximum(digests)]


def _known(file: Path | None, keys: Sequence[str]) -> np.ndarray:
    """float32 per key, NaN where the cache has none; as process 0 sees the file."""
    known = _read(file) if distributed.first() else {}
    return np.array(distributed.from_first([known.get(key, np.nan) for key in keys]), np.float32)


def _read(file: Path | None) -> dict[str, float]:
    """Complete lines of the cache; a line cut short by a crash is computed again."""
    known: dict[str, float] = {}
    if file is None or not file.is_file():
        return known
    for line in file.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            entry = parse_json(line)
            known[entry["key"]] = float(entry["nll"])
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _append(file: Path | None, entries: dict[str, Any]) -> None:
    if file is None or not entries or not distributed.first():
        return
    lines.append(file, (json.dumps({"key": key, "nll": nll}) for key, nll in entries.items()))
