"""What a search has finished, on disk, so that a killed search continues with the question it was at.

Every finished question is one JSON line, on the disk before the next begins. Of two lines with the same key the later
one counts. The first line says which search the file belongs to. A file of another search (other weights, words, guard)
is started anew.
"""

import base64
import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.errors import InputError, JobError


@dataclasses.dataclass(frozen=True)
class WordScores:
    """One question's result in a word search.

    Attributes:
      original: the margin of the unchanged prompt, in nats.
      margins_PW: float32 [P, W], the margin with every word at every position.
      best_PK: int [P, K], numbers of the best words at every position, best first, -1 where there are fewer.
      in_full_P: int [P], candidates that were run as whole prompts because they share no prefix.
      flops: forward FLOPs spent on the question.
    """

    original: float
    margins_PW: np.ndarray
    best_PK: np.ndarray
    in_full_P: np.ndarray
    flops: float

    def to_dict(self) -> dict[str, Any]:
        margins = np.ascontiguousarray(self.margins_PW, "<f4")
        return {
            "original": self.original,
            "shape": margins.shape,
            "margins": base64.b64encode(margins.tobytes()).decode(),
            "best": self.best_PK.tolist(),
            "in_full": self.in_full_P.tolist(),
            "flops": self.flops,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "WordScores":
        margins = np.frombuffer(base64.b64decode(row["margins"]), "<f4").reshape(row["shape"])
        return cls(row["original"], margins, np.array(row["best"]), np.array(row["in_full"]), row["flops"])


class MarginsFile:
    """An open file of finished questions, by key. One process may have it open: a second one gets a JobError.

    Args:
      identity: what makes results those of this very search; plain values.
      kind: the class of what is kept, with `to_dict` and `from_dict`.

    Its attribute `resumed` says whether the file held this very search already.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], kind: Any = WordScores):
        self.path, self._kind = Path(path), kind
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed in __exit__)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scores = self._read(json.loads(json.dumps(identity)))
        except BlockingIOError:
            self._file.close()
            raise JobError(f"{self.path}: another attack is writing it; wait for it or use another --out") from None
        except BaseException:
            self._file.close()
            raise

    def _read(self, identity: Any) -> dict[str, Any]:
        """Finished questions of this search; cuts off a torn last line, or everything of another search."""
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        try:
            header = json.loads(lines[0]) if lines else None
            self.resumed = header == {"schema": 1, "search": identity}
            rows = map(json.loads, lines[1:]) if self.resumed else ()
            found = {row.pop("key"): self._kind.from_dict(row) for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: damaged ({error}); delete it to search again") from None
        os.truncate(self.path, len(whole) if self.resumed else 0)
        if not self.resumed:
            self._append({"schema": 1, "search": identity})
        return found

    def __enter__(self) -> "MarginsFile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def get(self, key: str) -> Any:
        return self._scores.get(key)

    def add(self, key: str, scores: Any) -> None:
        """Returns when the line is on the disk."""
        self._append({"key": key, **scores.to_dict()})
        self._scores[key] = scores

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
