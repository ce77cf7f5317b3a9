"""Output folders that appear under their final name only when they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.outputs import names_when_full
from vlm_mu_jax.files.paths import resolved

_SYNC_THREADS = 16


@contextlib.contextmanager
def complete_folder(out: str | Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty temporary folder beside `out`, which becomes `out` when the block ends without an error.

    The files are on the disk before the folder gets its name, so that a power failure cannot leave half of it. A lock
    keeps two processes from writing one folder. Of a copy of a bucket's folder, see `buckets.Copies.folder`.

    Args:
      out: the folder to write. What is there already is kept until the new folder is complete.
      marker: name of a file that only this kind of folder holds; see `check_replaceable`.
      overwrite: see `check_replaceable`.

    Raises:
      InputError: `out` may not be replaced, or another process is writing it.

    Example:
      with complete_folder("runs/base", marker="vlm_mu_jax.json") as folder:
          (folder / "vlm_mu_jax.json").write_text("{}")
    """
    out = check_replaceable(out, marker, overwrite)
    partial = partial_folder(out)
    old = out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(partial.with_suffix(".lock"), out), buckets.folder(out, marker):
        for leftover in (partial, old):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            with names_when_full(out):
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
    out = resolved(out)
    return out.with_name(f".{out.name}.partial")


def check_replaceable(out: str | Path, marker: str, overwrite: bool = False) -> Path:
    """The resolved path of an output folder that may be written.

    A folder that exists may be replaced if it is empty, if it holds `marker`, or if `overwrite` says so. A mistyped
    --out must not delete somebody's data. Commands call this before they start to work, so that it fails at once.

    Args:
      overwrite: replace a folder without `marker` too. The home folder, the working folder and the folders around them
        are refused all the same.

    Raises:
      InputError: `out` is a file, or a folder that may not be replaced.
    """
    found = resolved(out)
    if not found.exists():
        return found
    if not found.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write")
    if not any(found.iterdir()):
        return found
    for kept in (Path.home(), Path.cwd()):
        if found == kept or found in kept.parents:
            raise InputError(f"{out}: is or holds {kept}, and is never replaced; give another folder")
    if not overwrite and not (found / marker).is_file():
        raise InputError(f"{out}: exists and is not a folder that this command wrote; give another one or remove it")
    return found


@contextlib.contextmanager
def only_writer(lock: Path, out: Path, inherited: bool = False) -> Iterator[None]:
    """Holds the file `lock` until the block or the process ends, so that two commands never write one folder.

    Args:
      lock: made in a folder that exists, and removed again.
      out: what is written, for the message.
      inherited: commands that are started meanwhile hold it too, so that one that outlives us still keeps others out.

    Raises:
      InputError: another command holds it.
    """
    with open(lock, "w") as file:
        try:
            _lock(file.fileno())
        except BlockingIOError as error:
            raise InputError(f"{out}: another command is writing it; wait for it, or give another folder") from error
        os.set_inheritable(file.fileno(), inherited)
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
