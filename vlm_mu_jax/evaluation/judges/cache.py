"""Replies of a judging model, kept by content, so that nothing is asked and paid for twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import lines
from vlm_mu_jax.files.json_file import parse_json


def content_key(*parts: Any) -> str:
    """A hash of plain JSON values: judge, prompt, model, question, answer, image."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class JudgeCache:
    """Replies by key, one JSON line each, on the disk as soon as they come. A torn last line is dropped.

    Only replies that could be read are kept: what failed is asked again by the next run. Without a path the replies are
    kept in memory. Raises InputError for a damaged file.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        self._replies: dict[str, dict] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        raw = path.read_bytes()
        whole = lines.whole(raw)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = parse_json(line.decode())
                self._replies[row["key"]] = row["reply"]
            except (ValueError, TypeError, KeyError):
                raise InputError(f"{path}: line {number} is no kept reply; delete the file to ask again") from None
        if len(whole) < len(raw):
            os.truncate(path, len(whole))

    def get(self, key: str) -> dict | None:
        return self._replies.get(key)

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        self._replies[key] = dict(reply)
        if self.path is None:
            return
        lines.append(self.path, [json.dumps({"key": key, "reply": reply})])
