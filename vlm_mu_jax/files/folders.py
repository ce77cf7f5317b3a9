"""Output folders that appear under their final name only when they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vlm_mu_jax.errors import InputError

_SYNC_THREADS = 16


@contextlib.contextmanager
def complete_folder(out: str | Path, marker: str) -> Iterator[Path]:
    """Yields an empty temporary sibling of `out`, which becomes `out` when the block ends without an error.

    Its files are on the disk before it gets the name, so that a power failure cannot leave half a folder either. A
    folder that is already there is replaced only if it is empty or holds `marker`, a file that only we write: a
    mistyped flag must not delete somebody's data.

    Raises:
      InputError: `out` exists and is something else, or another process is writing it.
    """
    out = Path(out).expanduser().absolute()
    check_replaceable(out, marker)
    partial = partial_folder(out)
    old = out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(partial, out):
        for leftover in (partial, old):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            _sync(partial)
            if out.exists():
                out.rename(old)
            partial.rename(out)
            _sync_names(out.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def partial_folder(out: str | Path) -> Path:
    """Where `complete_folder` collects the files of `out`."""
    out = Path(out).expanduser().absolute()
    return out.with_name(f".{out.name}.partial")


def check_replaceable(out: str | Path, marker: str) -> None:
    """Commands call it first, so that a bad --out fails before the work and not after it."""
    out = Path(out).expanduser()
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write")
    if any(out.iterdir()) and not (out / marker).is_file():
        raise InputError(f"{out}: exists and is not a folder that this command wrote; give another one or remove it")


@contextlib.contextmanager
def _only_writer(partial: Path, out: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however that ends: two commands must not share a partial folder."""
    lock = partial.with_suffix(".lock")
    with open(lock, "w") as file:
        try:
            _lock(file.fileno())
        except BlockingIOError as error:
            raise InputError(f"{out}: another command is writing it; wait for it, or give another folder") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
    if not os.fstat(descriptor).st_nlink:  # the other writer has just removed it
        raise BlockingIOError


def _sync(folder: Path) -> None:
    """Has everything below a folder written to the disk; many files at a time, which the disk takes together."""
    parents = [(Path(parent), files) for parent, _, files in os.walk(folder)]
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(_sync_file, [parent / name for parent, files in parents for name in files]))
        list(pool.map(_sync_names, [parent for parent, _ in parents]))


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_names(folder: Path) -> None:
    """Has a folder's own entries written; some file systems cannot, and do so by themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
