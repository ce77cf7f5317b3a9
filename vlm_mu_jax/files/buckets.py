"""Folders and files in object stores (gs://, s3://, hf://): a command works on copies of them on this machine.

A store holds whole objects. It has no rename, no appending and no locks, so these promises are kept in other ways:

- Small files are fetched when a command starts and sent whole when they are complete, and every `EVERY` seconds where
  they grow. A reader finds the old object or the new one.
- The files of a folder that appears when it is complete are sent before its marker. Readers ask for the marker.
- The folder's writer holds a lock, an object `.NAME.lock` that it renews.
- Weights are not copied: TensorStore and Orbax read and write them in the store (`kvstore`, `remote`), and safetensors
  are read tensor by tensor (`opened`).
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.files.bucket_lock import BucketLock
from vlm_mu_jax.files.stores import Store, store_of

EVERY = 10.0  # seconds between two sendings of files that grow; $VLM_MU_BUCKET_SECONDS
PATIENCE = 300  # seconds that a store may be out of reach before the command gives up
_LAST = ("_CHECKPOINT_METADATA",)  # says that the rest of an Orbax checkpoint is there
_PARTIAL = re.compile(r"\.(.+)\.partial")  # what `folders.partial_folder` calls a folder that is not complete
_THREADS = 8
_PREFIX = "vlm_mu_buckets_"  # of the temporary folder
_COPY = re.compile(rf"[^\s'\"]*/{_PREFIX}\w+/(\w+)/")


class Copies:
    """The copies of one command's URLs, in a temporary folder: SCHEME/BUCKET/KEY."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self._known: dict[Path, tuple[int, int]] = {}  # as they are in the store: (size, mtime)
        self._writable: list[Path] = []
        self._held_back: set[Path] = set()
        self._markers: set[Path] = set()
        self._streamed: dict[Path, str] = {}
        self._locks: list[BucketLock] = []
        self._trouble: Exception | None = None
        self._busy, self._stop = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._send_now_and_then, daemon=True)

    def local(self, url: str, write: bool = False, lock: str | None = "", stream: bool = False) -> Path:
        """The copy of a folder or file, which need not exist.

        Args:
          write: it is written. What lies beside it under NAME.* is fetched as well, for a run that goes on.
          lock: ending of the lock's name, where several commands write parts of one folder; None takes no lock.
          stream: leave safetensors where they are; `opened` reads them there.

        Raises:
          InputError: the store cannot be read, or another command writes there.
        """
        store, key = store_of(url)
        path = self.root / store.scheme / key
        if write and lock is not None:
            self._locks.append(BucketLock(store, f"{key}{lock}", url))
        self._fetch(store, key, write, stream)
        if write:
            self._writable.append(path.parent if "/" in key else path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._thread.is_alive():
                self._thread.start()
        return path

    def remote(self, path: Path) -> str | None:
        """The URL of a path; None where it is no copy."""
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        scheme, *parts = path.relative_to(self.root).parts
        return f"{scheme}://" + "/".join(_PARTIAL.sub(r"\1", part) for part in parts)

    def opened(self, path: Path) -> BinaryIO | None:
        """A file that stayed in the store, for reading at any place; None if it is here."""
        if path not in self._streamed:
            return None
        store, key = store_of(self._streamed[path])
        return store.files.open(key, "rb", cache_type="none")

    def send(self, patient: bool = True) -> None:
        """Sends what is new, and removes in the store what was removed here.

        Raises:
          JobError: the store is out of reach for `PATIENCE` seconds, or the lock was lost.
        """
        until = time.monotonic() + (PATIENCE if patient else 0)
        while True:
            try:
                with self._busy:
                    self._send()
                self._trouble = None
                return
            except JobError:
                raise
            except Exception as error:  # each store has its own
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                if time.monotonic() > until:
                    raise JobError(
                        f"the bucket cannot be written ({reason}); what is missing there lies in {self.root}/ "
                    ) from error
                if self._trouble is None:
                    print(f"note: the bucket cannot be written ({reason}); trying again", file=sys.stderr)
                self._trouble = error
            time.sleep(2)

    @contextlib.contextmanager
    def folder(self, out: Path, marker: str) -> Iterator[None]:
        """Around the writing of a folder: the store's old one is removed, marker first; the new marker comes last."""
        url = self.remote(out)
        store, key = store_of(url)
        with self._busy:
            self._held_back.add(out)
            self._known = {path: known for path, known in self._known.items() if not path.is_relative_to(out)}
            store.remove_folder(key, marker)
        yield
        with self._busy:
            self._held_back.discard(out)
            self._markers.add(out / marker)
        self.send()

    def refresh(self, path: Path) -> None:
        """Fetches again what lies below a path, where other processes have written meanwhile."""
        with self._busy:
            self._known = {one: known for one, known in self._known.items() if not one.is_relative_to(path)}
            store, key = store_of(self.remote(path))
            self._fetch(store, key, write=False, stream=False)

    def close(self) -> None:
        """Sends the rest, gives the locks back and removes the copies."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._writable:
            self.send()
        for lock in self._locks:
            lock.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def _fetch(self, store: Store, key: str, write: bool, stream: bool) -> None:
        found = store.find(key, siblings=write)
        wanted: list[tuple[str, Path]] = []
        for name, size in found.items():
            path = self.root / store.scheme / name
            if path in self._known or path in self._streamed or _left_in_store(name, found, store.scheme):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if stream and path.suffix == ".safetensors" and size:
                path.touch()
                self._streamed[path] = f"{store.scheme}://{name}"
            else:
                wanted.append((name, path))
        store.fetch(wanted)
        self._known |= {path: _state(path) for _, path in wanted}

    def _send(self) -> None:
        for lock in self._locks:
            lock.check()
        here = {path: _state(path) for folder in self._writable for path in _files(folder)}
        changed = [
            path
            for path, state in here.items()
            if self._known.get(path) != state
            and path not in self._streamed
            and not any(path.is_relative_to(folder) for folder in self._held_back)
        ]
        last = {path for path in changed if path in self._markers or path.name in _LAST}
        with ThreadPoolExecutor(_THREADS) as pool:
            for some in ([path for path in changed if path not in last], list(last)):
                for path, _ in zip(some, pool.map(self._send_one, some), strict=True):
                    self._known[path] = here[path]
        for path in [path for path in self._known if self._is_written(path) and not path.exists()]:
            store, key = store_of(self.remote(path))
            store.remove(key)
            del self._known[path]

    def _send_one(self, path: Path) -> None:
        store, key = store_of(self.remote(path))
        try:
            store.put(path, key)
        except FileNotFoundError:  # removed meanwhile, by whoever wrote it
            if path.exists():
                raise

    def _is_written(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._writable)

    def _send_now_and_then(self) -> None:
        while not self._stop.wait(float(os.environ.get("VLM_MU_BUCKET_SECONDS") or EVERY)):
            with contextlib.suppress(JobError):  # told by the next `send` that waits
                self.send(patient=False)


_copies: Copies | None = None


def copies() -> Copies:
    """This process's copies; begun at the first call."""
    global _copies
    if _copies is None:
        _copies = Copies()
    return _copies


def finish() -> None:
    """Sends what is left and removes the copies; without any it does nothing."""
    global _copies
    if _copies is not None:
        ended, _copies = _copies, None
        ended.close()


def remote(path: Path) -> str | None:
    """The URL that a path is the copy of, or None."""
    return None if _copies is None else _copies.remote(path)


def named(text: str) -> str:
    """The text with every copy called by its URL."""
    return _COPY.sub(r"\1://", text) if _PREFIX in text else text


def send() -> None:
    """Returns when everything written so far is in its bucket; see `Copies.send`."""
    if _copies is not None:
        _copies.send()


def refresh(path: str | Path) -> None:
    """Fetches what other processes have sent meanwhile below a path; nothing for a path of this machine."""
    if remote(Path(path)) is not None:
        _copies.refresh(Path(path))


def opened(path: Path) -> BinaryIO:
    """A file open for reading at any place, here or in its bucket."""
    found = None if _copies is None else _copies.opened(path)
    return open(path, "rb", buffering=0) if found is None else found


def folder(out: Path, marker: str) -> contextlib.AbstractContextManager[None]:
    """See `Copies.folder`; nothing for a folder of this machine."""
    return contextlib.nullcontext() if remote(out) is None else _copies.folder(out, marker)


def kvstore(path: Path) -> dict[str, Any]:
    """TensorStore's description of a folder, here or in its bucket."""
    url = remote(path)
    return {"driver": "file", "path": f"{path}/"} if url is None else store_of(url)[0].kvstore(store_of(url)[1])


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones are locks and parts of what is not complete."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.endswith(".part"):
                yield Path(parent, name)


def _left_in_store(name: str, found: dict[str, int], scheme: str) -> bool:
    """Whether an object is read where it is, or belongs to a checkpoint that was not completed."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return True
    for i, part in enumerate(parts[:-1]):
        folder = "/".join(parts[: i + 1])
        if part == "params" and f"{folder}/_METADATA" in found and i < len(parts) - 2:
            return True
        if part == "checkpoints" and len(parts) > i + 2:
            step = "/".join(parts[: i + 2])
            if parts[i + 1].partition(".")[0].isdigit():
                return scheme == "gs" or f"{step}/_CHECKPOINT_METADATA" not in found
    return False
