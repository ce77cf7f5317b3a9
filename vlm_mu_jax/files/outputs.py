"""Files that a command writes: they appear under their final name only when complete."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vlm_mu_jax.errors import InputError


@contextlib.contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path with the same ending, which becomes `path` when the block ends without an error."""
    path = check_writable(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: str | Path) -> Path:
    """Makes the parent folder; commands call it first, so that a bad --out fails before the work and not after it."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error.strerror}); give another path") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: may not be written to; give another path")
    return path
