"""Files that grow by a line at a time while a run goes on. A kill may cut the last line short, and nothing else."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from vlm_mu_jax.files.outputs import names_when_full


def whole(content: bytes) -> bytes:
    """The complete lines of a file's content, without a last line that was cut short."""
    return content[: content.rfind(b"\n") + 1]


def put(file: BinaryIO, lines: Iterable[str], path: str | Path) -> None:
    """Writes lines to an open file; returns when they are on the disk. path: its name, for the error of a full disk."""
    with names_when_full(path):
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def append(path: str | Path, lines: Iterable[str]) -> None:
    """Adds lines to a file, which is made with its folder when there is none; returns when they are on the disk.

    A last line that was cut short stays apart from the first of these.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with names_when_full(path), open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        put(file, lines, path)
