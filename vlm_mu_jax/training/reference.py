"""Log-probabilities under the model before training, once per example, kept on disk.

NPO compares with the untrained model in every step, but needs one number per example: it is computed before training
and found again by a hash of the weights and of the example (token ids, so template and tokenizer, loss mask and
pixels). No second copy of the weights exists and no step runs a reference forward.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.params import Params, flatten
from vlm_mu_jax.parallel.mesh import put_batch
from vlm_mu_jax.training.policy import ModelPolicy

Progress = Callable[..., Iterable]


def weights_hash(params: Params) -> str:
    """sha256 over names, dtypes, shapes and values of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(params).items()):
        digest.update(f"{path}/{leaf.dtype}/{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def reference_nll(
    params: Params,
    stream: Stream,
    cfg: LlavaConfig,
    mesh: Mesh,
    *,
    rows_per_batch: int,
    cache: Path | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """float32 [rows]: summed answer NLL in nats of every row of the stream under `params`.

    Args:
      rows_per_batch: rows of one forward; a multiple of the mesh's batch shards.
      cache: folder of the cache (one file per weights hash), None to compute without one.
      weights: hash of `params`, when it is known already.
    """
    keys = [stream.row_key(i) for i in range(len(stream.rows))]
    file = None if cache is None else cache / f"reference_{(weights or weights_hash(params))[:16]}.jsonl"
    known = _read(file)
    todo = [i for i, key in enumerate(keys) if key not in known]
    blocks = [todo[i : i + rows_per_batch] for i in range(0, len(todo), rows_per_batch)]
    score = jax.jit(lambda p, rows: ModelPolicy(p, None, None, cfg, {}).nll(rows)[0])
    show = progress or (lambda items, label, total=None: items)
    for block in show(blocks, f"reference {stream.name}", len(blocks)):
        padded = block + [block[-1]] * (rows_per_batch - len(block))  # one shape, one program
        nll_B = jax.device_get(score(params, put_batch(stream.take(padded), mesh)))
        fresh = {keys[i]: float(value) for i, value in zip(block, nll_B, strict=False)}
        known.update(fresh)
        _append(file, fresh)
    return np.array([known[key] for key in keys], np.float32)


def _read(file: Path | None) -> dict[str, float]:
    """Complete lines of the cache; a line cut short by a crash is computed again."""
    known: dict[str, float] = {}
    if file is None or not file.is_file():
        return known
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = float(entry["nll"])
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _append(file: Path | None, entries: dict[str, Any]) -> None:
    if file is None or jax.process_index():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    cut = file.is_file() and not file.read_bytes().endswith(b"\n")
    with file.open("a", encoding="utf-8") as out:
        out.write("\n" if cut else "")
        for key, nll in entries.items():
            out.write(json.dumps({"key": key, "nll": nll}) + "\n")
