"""Which weights, which guard: the hashes that join a training, its evaluations, its attacks and its guards.

Two runs speak of the same model exactly if their `weights_sha256` are equal. There is one definition of it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.parallel import distributed


def weights_hash(params: Mapping[str, Any]) -> str:
    """The SHA-256 of a parameter tree: every leaf's path, dtype, shape and bytes.

    The result does not depend on the mesh. In a job of several processes all of them must call it.
    """
    leaves = sorted(flatten(params).items())
    if jax.process_count() > 1:  # gathering a leaf is a step that all processes take in the same order
        return hashlib.sha256(b"".join(_leaf_digest(path, leaf) for path, leaf in leaves)).hexdigest()
    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(_leaf_digest, *zip(*leaves, strict=True)))).hexdigest()


def folder_hash(folder: str | Path) -> str:
    """The SHA-256 of a folder's files, in the order of their names; what identifies a guard on disk."""
    return hashlib.sha256(b"".join(_file_digests(Path(folder)))).hexdigest()


def _leaf_digest(path: str, leaf: Any) -> bytes:
    array = np.ascontiguousarray(distributed.to_host(leaf))
    digest = hashlib.sha256(f"{path} {array.dtype} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.digest()


def _file_digests(folder: Path) -> Iterator[bytes]:
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            yield hashlib.file_digest(file, "sha256").digest()
