"""Writing large files past the system's page cache.

Weights are written once and not read soon. Through the page cache each byte is copied, each page of the cache has to be
found and cleared first, and other programs' files are thrown out of it; that costs several times the processor time of
the disk's own transfer. Where a file system has no direct writing, files are written as usual.
"""

import mmap
import os
import threading
from pathlib import Path

import numpy as np

_STAGE_BYTES = 4 * 2**20  # one transfer; memory and length of all but the last must be whole pages
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_thread = threading.local()


class DirectFile:
    """A new file, written from its beginning to its end; `with DirectFile(path) as f: f.write(array)`.

    A thread may have one open at a time: they share its staging memory.
    """

    def __init__(self, path: Path):
        if not hasattr(_thread, "stage"):
            _thread.stage = np.frombuffer(mmap.mmap(-1, _STAGE_BYTES), np.uint8)  # begins at a page
        self._path, self._file = path, -1
        self._stage = _thread.stage
        self._staged = 0
        self.size = 0

    def __enter__(self) -> "DirectFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._file != -1:
                os.close(self._file)

    def write(self, array: np.ndarray) -> None:
        """Appends the bytes of a contiguous array."""
        data = array.reshape(-1).view(np.uint8)
        self.size += len(data)
        while len(data):
            part = data[: _STAGE_BYTES - self._staged]
            self._stage[self._staged : self._staged + len(part)] = part
            self._staged += len(part)
            data = data[len(part) :]
            if self._staged == _STAGE_BYTES:
                self._flush()

    def _finish(self) -> None:
        """The last transfer is made of whole pages like the others; what is too long is cut off."""
        if self._file == -1:  # a small file waits in the page cache for others
            self._file = os.open(self._path, _NEW, 0o666)
            self._flush()
        elif self._staged:
            used = -(-self._staged // mmap.PAGESIZE) * mmap.PAGESIZE
            self._stage[self._staged : used] = 0
            self._staged = used
            self._flush()
            os.ftruncate(self._file, self.size)

    def _flush(self) -> None:
        if self._file == -1:
            self._file = _open(self._path)
        view = memoryview(self._stage[: self._staged])
        while view:
            view = view[os.write(self._file, view) :]
        self._staged = 0


def _open(path: Path) -> int:
    try:
        return os.open(path, _NEW | getattr(os, "O_DIRECT", 0), 0o666)
    except FileExistsError:
        raise
    except OSError:  # no direct writing here
        path.unlink(missing_ok=True)  # it may have been made before the refusal
        return os.open(path, _NEW, 0o666)
