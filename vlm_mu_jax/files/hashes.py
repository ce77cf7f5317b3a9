"""Hashes of files."""

import hashlib
from pathlib import Path


def sha256(path: str | Path) -> str:
    """The hash of a file, which is not held in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
