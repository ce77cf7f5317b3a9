"""The answers file: one JSON line per answered question.

Lines are appended and on the disk before the next batch is asked, so that a run killed at any moment goes on. One
process writes a file at a time. Whoever replaces the lines, to add labels, holds the same lock as whoever appends.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import lines
from vlm_mu_jax.files.json_file import parse_json
from vlm_mu_jax.files.outputs import names_when_full

TOO_LONG = "too long"  # what `Answer.left_out` begins with


@dataclasses.dataclass(frozen=True)
class Condition:
    """How a question was asked.

    attack: which attack. position: where its word was put. word: the word (or template), which is the `shot`-th of the
    attack's list. image: what was shown. turn: which question of a dialogue it is; 0 where only one is asked.
    """

    attack: str = "none"  # none | one_word | over_refuse | null_word | opening | METHOD | METHOD_control of bin/attack
    position: str | None = None  # question_start when a word was put there
    word: str | None = None
    shot: int = 0
    image: str = "own"  # own | none | blank:KIND | attack
    turn: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """One line of an answers file.

    id: of the record. image_id: a name of the image's content. prompt_sha: SHA-256 of the prompt's token ids. question:
    the text as it was asked. tokens: how many were generated. labels: by the judge's name. left_out: why the question
    was not asked ("too long: ..."), with no answer then; "" where it was.
    """

    id: str
    condition: Condition
    image_id: str | None
    prompt_sha: str
    question: str
    answer: str
    tokens: int
    labels: dict[str, dict] = dataclasses.field(default_factory=dict)
    left_out: str = ""

    @property
    def key(self) -> tuple:
        """Identifies an answer. A question with the same key is not asked again."""
        return (self.id, self.condition, self.image_id, self.prompt_sha)

    def to_line(self) -> str:
        """The answer as one line of JSON, without the line's end."""
        row = dataclasses.asdict(self)
        if not self.condition.turn:
            del row["condition"]["turn"]
        if not self.left_out:
            del row["left_out"]
        # In ASCII no answer can hold what some reader takes for the end of a line, nor half a surrogate pair.
        return json.dumps(row)


def read(path: str | Path) -> list[Answer]:
    """The answers of a file, in its order.

    A missing file has none. A last line that a kill has torn is left out. Raises InputError for any other line that is
    no answer.
    """
    return _parse(Path(path), _content(Path(path))[0])


class AnswersFile:
    """An answers file open for appending. One process at a time: a second one gets a JobError, not a mixed-up file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = _locked(self.path)
        try:
            whole, torn = _content(self.path)
            self.answers = _parse(self.path, whole)
            if torn:  # what a kill in the middle of a write left behind
                os.truncate(self.path, len(whole))
        except BaseException:
            self._file.close()
            raise
        self._keys = {answer.key for answer in self.answers}

    def __enter__(self) -> "AnswersFile":
        return self

    def __exit__(self, *_) -> None:
        with names_when_full(self.path):
            self._file.close()

    def __contains__(self, key: tuple) -> bool:
        return key in self._keys

    def append(self, answers: Iterable[Answer]) -> None:
        """Adds answers whose key is new; returns when they are on the disk."""
        new = []
        for answer in answers:
            if answer.key not in self._keys:
                self._keys.add(answer.key)
                new.append(answer)
        if new:
            lines.put(self._file, (answer.to_line() for answer in new), self.path)
            self.answers += new

    def relabel(self, answers: Iterable[Answer]) -> None:
        """Writes these answers in place of those with the same keys; every other line stays as it is."""
        labelled = {answer.key: answer for answer in answers}
        self.answers = [labelled.get(old.key, old) for old in self.answers]
        replaced = self._file
        self._file = _replace(self.path, self.answers)
        replaced.close()

    def arrange(self, keys: Iterable[tuple]) -> None:
        """Puts the answers with these keys in this order, behind all others, so that a finished file does not tell how
        its questions were batched, dealt out and resumed."""
        place = {key: at for at, key in enumerate(keys)}
        arranged = sorted(self.answers, key=lambda answer: place.get(answer.key, -1))
        if [answer.key for answer in arranged] != [answer.key for answer in self.answers]:
            self.answers = arranged
            replaced = self._file
            self._file = _replace(self.path, self.answers)
            replaced.close()


class AnswersInMemory:
    """What `AnswersFile` is, without a file."""

    def __init__(self):
        self.path: Path | None = None
        self.answers: list[Answer] = []

    def __enter__(self) -> "AnswersInMemory":
        return self

    def __exit__(self, *_) -> None:
        pass

    def __contains__(self, key: tuple) -> bool:
        return any(answer.key == key for answer in self.answers)

    def append(self, answers: Iterable[Answer]) -> None:
        self.answers += answers

    def arrange(self, keys: Iterable[tuple]) -> None:
        pass


def rewrite(path: str | Path, answers: Iterable[Answer]) -> None:
    """Replaces the file's content at once: a reader sees the old lines or the new ones, never a mixture.

    Raises:
      JobError: another process is writing the file.
    """
    with _locked(Path(path)):
        _replace(Path(path), answers).close()


def _locked(path: Path) -> BinaryIO:
    """The file open for appending, with its lock. Raises JobError when another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "ab")  # noqa: SIM115 (the caller closes it)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # removed since it was opened
            pass
        except BlockingIOError:
            file.close()
            raise JobError(f"{path}: another process is writing it; wait for it or use another --workdir") from None
        file.close()  # replaced since it was opened: the lock is on what nobody will read


def _replace(path: Path, answers: Iterable[Answer]) -> BinaryIO:
    """Puts a new file with these lines in the place of `path`. Returns it open and locked already, so that no other
    writer comes in between."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    file = open(part, "ab")  # noqa: SIM115 (the caller closes it)
    try:
        with names_when_full(path):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines.put(file, (answer.to_line() for answer in answers), path)
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk, which was told
            file.close()
        raise
    return file


def _content(path: Path) -> tuple[bytes, bytes]:
    """(complete lines, torn rest) of a file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return b"", b""
    found = lines.whole(raw)
    return found, raw[len(found) :]


def _parse(path: Path, whole: bytes) -> list[Answer]:
    answers, seen = [], set()
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            answer = msgspec.convert(parse_json(line.decode()), Answer)
        except (ValueError, msgspec.ValidationError) as error:
            raise InputError(
                f"{path}: line {number} is no answer ({error}); delete the file to generate it again"
            ) from None
        if answer.key not in seen:
            seen.add(answer.key)
            answers.append(answer)
    return answers
