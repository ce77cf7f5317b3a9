"""The record: one conversation. Every reader turns its file into records, and everything after reads only these.

The shortest conversation is one question about one image with its reference answer. `Record` is written and read that
way by whatever needs no more (`question`, `image`, `answer`); training and multi-turn questions read `turns`.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

KINDS = ("unsafe", "safe", "general")
ROLES = ("user", "assistant")
_KEEP: Any = object()  # an argument that was not given


@dataclasses.dataclass(frozen=True)
class ImagePart:
    """An image in a turn, as a path relative to the data root."""

    path: str


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one speaker says.

    Attributes:
      role: "user" or "assistant".
      parts: texts and images in the order in which they stand.

    Raises InputError for another role, an empty part, or an image in an answer.
    """

    role: str
    parts: tuple[str | ImagePart, ...]

    def __post_init__(self):
        if self.role not in ROLES:
            raise InputError(f"role must be one of {', '.join(ROLES)}, not {_shown(self.role)}")
        for part in self.parts:
            if not isinstance(part, str | ImagePart):
                raise InputError(f"a turn holds texts and images, not {_shown(part)}")
        for path in self.images:
            if not (isinstance(path, str) and path):
                raise InputError(f"image must be a relative path or null, not {_shown(path)}")
        if self.role == "assistant" and self.images:
            raise InputError("an answer holds an image; only questions may")

    @property
    def text(self) -> str:
        """The words alone."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of the images, in order."""
        return tuple(part.path for part in self.parts if isinstance(part, ImagePart))

    def showing(self, images: Sequence[str]) -> "Turn":
        """The turn with these images in the places of its own, which are as many."""
        coming = iter(images)
        return Turn(self.role, tuple(p if isinstance(p, str) else ImagePart(next(coming)) for p in self.parts))

    def with_text(self, text: str) -> "Turn":
        """The turn with other words. Images behind the words stay there, all others stand in front of the new ones."""
        if text in (self.text, self.text.strip()):
            return self
        words = [i for i, part in enumerate(self.parts) if isinstance(part, str)]
        behind = self.parts[words[-1] + 1 :] if words else ()
        front = [ImagePart(path) for path in self.images[: len(self.images) - len(behind)]]
        return Turn(self.role, (*front, text, *behind))


@dataclasses.dataclass(frozen=True, init=False)
class Record:
    """One conversation and what a good model does with it.

    Attributes:
      id: its name, distinct within its file.
      turns: the user's and the assistant's turns, alternating, the user's first. A conversation may end with the user's
        turn: it then has no reference answer. An answer of no words is one that the data do not have.
      kind: "unsafe" questions are not to be answered, "safe" and "general" ones are.
      category, source: what the data set says of it; "" where it says nothing.
      system: the system text, or None for the chat template's own.
      rejected: of a preference pair, the answer that is not preferred to the last turn's; "" for none.
      at: which question `question`, `answer` and `image` speak of, counted from 0. See `at_question`.

    The shortest conversation is written by its fields, `question`, `image` and `answer`:

        Record("r1", "a.png", "What is this?", "A ring.", "general")

    These fields also exchange what a record has. `dataclasses.replace(record, question="Share this.")` changes the
    question and keeps its images. `replace(record, answer="No.")` changes its answer ("" removes the last one).

    Raises InputError for a wrong field.
    """

    id: str
    turns: tuple[Turn, ...]
    kind: str
    category: str
    source: str
    system: str | None
    rejected: str
    at: int

    def __init__(
        self,
        id: str,
        image: str | None = _KEEP,
        question: str = _KEEP,
        answer: str = _KEEP,
        kind: str = "general",
        category: str = "",
        source: str = "",
        *,
        turns: Sequence[Turn] = (),
        system: str | None = None,
        rejected: str = "",
        at: int = 0,
    ) -> None:
        texts = {"id": id, "question": question, "answer": answer, "kind": kind, "category": category, "source": source}
        for name, value in {**texts, "rejected": rejected}.items():
            if value is not _KEEP and not isinstance(value, str):
                raise InputError(f"{name} must be text, not {_shown(value)}")
        if not (system is None or isinstance(system, str)):
            raise InputError(f"system must be text, not {_shown(system)}")
        if not 0 <= 2 * at < max(len(turns), 1):
            raise InputError(f"there is no question {at + 1} in {len(turns)} turns")
        turns = _exchanged(tuple(turns), 2 * at, image, question, answer)
        values = {"id": id, "turns": turns, "kind": kind, "category": category, "source": source, "at": at}
        for name, value in {**values, "system": system, "rejected": rejected}.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not self.id.strip():
            raise InputError("id is empty")
        said = [part for turn in self.turns for part in turn.parts if isinstance(part, str)]
        try:
            "".join((self.id, self.category, self.source, self.system or "", self.rejected, *said)).encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("a text holds half of a surrogate pair, which no tokenizer can read") from None
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {_shown(self.kind)}")
        for number, turn in enumerate(self.turns):
            if turn.role != ROLES[number % 2]:
                raise InputError(f"turn {number + 1} must be the {ROLES[number % 2]}'s, not the {turn.role}'s")
        if not self.turns[0].text.strip():
            raise InputError("question is empty")
        for number, turn in enumerate(self.turns[2:], start=3):
            if turn.role == "user" and not turn.text.strip() and not turn.images:
                raise InputError(f"turn {number} is empty")

    @property
    def own(self) -> Turn:
        """The turn of the question."""
        return self.turns[2 * self.at]

    @property
    def question(self) -> str:
        """The words of the question; of a conversation that is `at` none other, the first one."""
        return self.own.text.strip() if len(self.own.parts) > 1 else self.own.text

    @property
    def answer(self) -> str:
        """The answer to the question, or "" where there is none."""
        return self.turns[2 * self.at + 1].text if len(self.turns) > 2 * self.at + 1 else ""

    @property
    def image(self) -> str | None:
        """The first image of the question, or None."""
        return next(iter(self.own.images), None)

    @property
    def questions(self) -> int:
        """How many questions the conversation has."""
        return (len(self.turns) + 1) // 2

    def at_question(self, number: int) -> "Record":
        """The conversation up to one of its questions and the answer to it. `question` and `answer` are then these.

        number: from 1; -1 is the last question. Raises InputError where there is no such question.
        """
        at = number - 1 if number > 0 else self.questions + number
        if number == 0 or not 0 <= at < self.questions:
            raise InputError(f"there is no question {number} among {self.questions}")
        rejected = self.rejected if at == self.questions - 1 else ""
        return dataclasses.replace(self, turns=self.turns[: 2 * at + 2], at=at, rejected=rejected)

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all images of the conversation, in order."""
        return tuple(path for turn in self.turns for path in turn.images)

    @property
    def is_short(self) -> bool:
        """True for one question with at most one image and no system text: what `question` and `image` say in full."""
        return len(self.turns) <= 2 and len(self.turns[0].images) <= 1 and self.system is None

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer, in order."""
        return tuple(turn.text for turn in self.turns if turn.role == "assistant")

    def answered(self, text: str) -> "Record":
        """The conversation up to its last question, with `text` as the answer to that; "" = with none."""
        asked = self.turns if self.turns[-1].role == "user" else self.turns[:-1]
        turns = (*asked, Turn("assistant", (text,))) if text else asked
        return dataclasses.replace(self, turns=turns, rejected="")

    @property
    def last_answer(self) -> str:
        """The answer to the last question, or "" where there is none."""
        return self.turns[-1].text if self.turns[-1].role == "assistant" else ""


def _exchanged(turns: tuple[Turn, ...], number: int, image: str | None, question: str, answer: str) -> tuple[Turn, ...]:
    """`turns` with another first image, words or answer of turn `number`, where they are given. "" and None take them
    away."""
    own = turns[number] if turns else Turn("user", ("",))
    if question is not _KEEP:
        own = own.with_text(question)
    if image is not _KEEP:
        at = next((i for i, part in enumerate(own.parts) if isinstance(part, ImagePart)), None)
        new = () if image is None else (ImagePart(image),)
        parts = (*new, *own.parts) if at is None else (*own.parts[:at], *new, *own.parts[at + 1 :])
        own = Turn("user", parts)
    rest = turns[number + 1 :]
    if answer is not _KEEP:
        if not answer and len(rest) > 1:
            raise InputError("an answer inside a conversation cannot be empty")
        rest = (*((Turn("assistant", (answer,)),) if answer else ()), *rest[1:])
    return (*turns[:number], own, *rest)


@dataclasses.dataclass(frozen=True, init=False)
class Item(Record):
    """A record of a public benchmark, with what only its own scorer needs: `details`, plain JSON values.

    Known keys: `answers` (the people's answers), `choices`, `label`, `group` (records that are scored, and sampled,
    together), `target` (what an attack wants the answer to start with), and others named in `readers/utility_sets.py`.
    """

    details: dict = dataclasses.field(hash=False)

    def __init__(self, *args: Any, details: dict | None = None, **fields: Any) -> None:
        super().__init__(*args, **fields)
        object.__setattr__(self, "details", {} if details is None else details)

    @property
    def group(self) -> str:
        """The unit this record belongs to: its image's pair, its question's rotations or shots; else its own id."""
        return self.details.get("group", self.id)


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
    """The records of one file.

    Attributes:
      items: the records: a tuple, or of a long file what builds them (`readers.long_files`).
      root: the folder that image paths are relative to.
      source: the file.
      sha256: its hash.
      notes: what the reader did to rows that it read, with their number: {"starts with an answer: ...": 3}.
      skipped: bad rows that were left out, (row number from 1, what is wrong).
    """

    items: Sequence[Record]
    root: Path
    source: Path
    sha256: str
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    skipped: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        """A record; of a slice, records of the same file."""
        return dataclasses.replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.items)

    def of_kind(self, *kinds: str) -> "Records":
        """Only the records of these kinds, in their order."""
        return dataclasses.replace(self, items=tuple(r for r in self.items if r.kind in kinds))

    def rebased(self, root: Path) -> "Records":
        """The same records with image paths relative to another folder."""
        if Path(root) == self.root:
            return self
        prefix = os.path.relpath(self.root, root)
        if hasattr(self.items, "rebased"):  # of a long file
            return dataclasses.replace(self, items=self.items.rebased(prefix), root=Path(root))

        def moved(part: str | ImagePart) -> str | ImagePart:
            return part if isinstance(part, str) else ImagePart(os.path.normpath(os.path.join(prefix, part.path)))

        items = []
        for record in self.items:
            turns = tuple(Turn(turn.role, tuple(map(moved, turn.parts))) for turn in record.turns)
            items.append(dataclasses.replace(record, turns=turns))
        return dataclasses.replace(self, items=tuple(items), root=Path(root))

    def image_path(self, record: Record) -> Path | None:
        """Where the record's (first) image lies, or None when it has none."""
        return None if record.image is None else self.root / record.image

    def image_paths(self, record: Record) -> tuple[Path, ...]:
        """Where all images of the record lie, in order."""
        return tuple(self.root / path for path in record.images)


def _shown(value) -> str:
    """A value in an error message, cut short."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
