"""Single output files that appear under their final name only when they are complete."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the user's share, or below the file's limit


@contextlib.contextmanager
def names_when_full(path: str | Path) -> Iterator[None]:
    """Gives the error of a full disk in its block the name of the file, which the system does not say."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which becomes `path` when the block ends without an error.

    A reader sees the old content or the new content, never a part of either. The content is on the disk before it gets
    the name, so that a power failure cannot leave half a file. The temporary path differs from process to process, and
    has the same ending as `path`, because some libraries choose the format by it.

    Raises:
      InputError: see `check_writable`.

    Example:
      with complete_file("table.csv") as partial:
          partial.write_text("a,b\\n")
    """
    path = check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with names_when_full(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file of text, which appears when it is complete; a missing parent folder is made.

    Raises:
      InputError: see `check_writable`.
    """
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_writable(path: str | Path) -> Path:
    """The resolved path of an output file that can be written.

    Commands call this before they start to work, so that a bad --out fails at once. Nothing is made.

    Raises:
      InputError: the path is a folder, or its parent folder cannot be made or written to.
    """
    found, parent = resolved(path), Path(path).parent
    if found.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    above = next(folder for folder in found.parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{parent}: cannot be made ({above} is a file); give another path")
    if not os.access(above, os.W_OK):
        what = "may not be written to" if above == found.parent else f"cannot be made (no writing in {above})"
        raise InputError(f"{parent}: {what}; give another path")
    return found
