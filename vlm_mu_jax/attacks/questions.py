"""Which questions an attack uses: by goal, drawn by seed, searched and verified apart."""

import dataclasses
import hashlib
import random
from pathlib import Path

import numpy as np

from vlm_mu_jax.data.anyres import Tiles
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class SearchQuestion:
    """A question of a search, and its image: a file, what `Processor.pixels` makes of one, or None."""

    question: str
    image: Path | np.ndarray | Tiles | None = None

    def key(self, role: str) -> str:
        """Names the question by its content; the image counts by its bytes."""
        image = b""
        if self.image is not None:
            image = self.image.read_bytes() if isinstance(self.image, Path) else self.image.tobytes()
        parts = (role.encode(), self.question.encode(), image)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def pixels(self, processor: Processor) -> np.ndarray | Tiles | None:
        return processor.pixels(self.image) if isinstance(self.image, Path) else self.image


def goal_kind(records: Records, goal: str) -> Records:
    """The questions a goal is about: unsafe ones for a jailbreak, safe ones for over-refusal.

    Unsafe questions about harmless images (VLGuard's safe_unsafes) are left out, as in the published attack success.
    """
    wanted = "unsafe" if goal == "jailbreak" else "safe"
    items = tuple(r for r in records if r.kind == wanted and r.source != "vlguard/safe_unsafes")
    if not items:
        raise InputError(
            f"{records.source}: holds no {wanted} question, which the goal {goal} needs; choose another --goal or file"
        )
    return dataclasses.replace(records, items=items)


def pick(records: Records, goal: str, most: int | None, seed: int) -> Records:
    """At most `most` questions for the goal, drawn by seed, in file order."""
    items = goal_kind(records, goal).items
    if most is not None and most < len(items):
        kept = set(random.Random(f"{seed}/{goal}").sample(range(len(items)), most))
        items = tuple(item for i, item in enumerate(items) if i in kept)
    return dataclasses.replace(records, items=items)


def halves(records: Records, seed: int) -> tuple[Records, Records]:
    """Two halves without a common image or base id, for a search and a verification on the same file."""
    groups = list(dict.fromkeys(_group(r) for r in records))
    random.Random(f"{seed}/halves").shuffle(groups)
    first = set(groups[: len(groups) // 2])
    parts = [tuple(r for r in records if (_group(r) in first) == side) for side in (True, False)]
    return tuple(dataclasses.replace(records, items=part) for part in parts)


def _group(record: Record) -> str:
    return record.image or record.id.partition("#")[0]


def asks_of(records: Records) -> list[SearchQuestion]:
    """The questions as a search takes them; images are read when their turn comes."""
    return [SearchQuestion(record.question, records.image_path(record)) for record in records]
