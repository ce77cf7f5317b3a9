"""The one record schema: every reader turns its file into these, and everything after reads only these."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_mu_jax.errors import InputError

KINDS = ("unsafe", "safe", "general")


@dataclasses.dataclass(frozen=True)
class Record:
    """One question about one image (or none), with its reference answer.

    `image` is a path relative to the data root, or None for a text-only question. `kind` says what a good model does
    with it: unsafe questions are not to be answered, safe and general ones are. Raises InputError for a wrong field.
    """

    id: str
    image: str | None
    question: str
    answer: str
    kind: str
    category: str = ""
    source: str = ""

    def __post_init__(self):
        for name in ("id", "question", "answer", "kind", "category", "source"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InputError(f"{name} must be text, not {_shown(value)}")
        for name in ("id", "question"):
            if not getattr(self, name).strip():
                raise InputError(f"{name} is empty")
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {_shown(self.kind)}")
        if self.image is not None and not (isinstance(self.image, str) and self.image):
            raise InputError(f"image must be a relative path or null, not {_shown(self.image)}")


@dataclasses.dataclass(frozen=True)
class Item(Record):
    """A record of a public benchmark, with what only its own scorer needs: `details`, plain JSON values.

    Known keys: `answers` (the people's answers), `choices`, `label`, `group` (records that are scored, and sampled,
    together), `target` (what an attack wants the answer to start with), and others named in `readers/utility_sets.py`.
    """

    details: dict = dataclasses.field(default_factory=dict, hash=False)

    @property
    def group(self) -> str:
        """The unit this record belongs to: its image's pair, its question's rotations or shots; else its own id."""
        return self.details.get("group", self.id)


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
    """The records of one file, the folder their image paths are relative to, and the file's sha256."""

    items: tuple[Record, ...]
    root: Path
    source: Path
    sha256: str

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.items)

    def of_kind(self, *kinds: str) -> "Records":
        """Only the records of these kinds, in their order."""
        return dataclasses.replace(self, items=tuple(r for r in self.items if r.kind in kinds))

    def image_path(self, record: Record) -> Path | None:
        """Where the record's image lies, or None when it has none."""
        return None if record.image is None else self.root / record.image


def _shown(value) -> str:
    """A value in an error message, cut short."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
