"""Output folders that appear under their final name only when they are complete."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from vlm_mu_jax.errors import InputError


@contextlib.contextmanager
def complete_folder(out: str | Path, marker: str) -> Iterator[Path]:
    """Yields an empty temporary sibling of `out`, which becomes `out` when the block ends without an error.

    A folder that is already there is replaced only if it is empty or holds `marker`, a file that only we write: a
    mistyped flag must not delete somebody's data.

    Raises:
      InputError: `out` exists and is something else.
    """
    out = Path(out).expanduser().absolute()
    check_replaceable(out, marker)
    partial = out.with_name(f".{out.name}.partial")
    old = out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (partial, old):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(out: str | Path, marker: str) -> None:
    """Commands call it first, so that a bad --out fails before the work and not after it."""
    out = Path(out).expanduser()
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write")
    if any(out.iterdir()) and not (out / marker).is_file():
        raise InputError(f"{out}: exists and is not a folder that this command wrote; give another one or remove it")
