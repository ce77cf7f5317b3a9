"""Questions dealt out to jobs that need not know of each other, and their answers put together again.

A share is decided by the questions alone, so that a job which starts again has the same one. Questions about one image
and the turns of one dialogue stay together: they run faster, or only, side by side.
"""

import dataclasses
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import AnswersFile
from vlm_mu_jax.evaluation.questions.question import Question

_NAME = re.compile(r"(\d+)-of-(\d+)(\.jsonl)?")


@dataclasses.dataclass(frozen=True, order=True)
class Share:
    """The part `index` of `count` parts, from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads "3/16". Raises InputError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not share.index < share.count:
            last = f"0/{share.count} to {share.count - 1}/{share.count}" if share.count else "such as 3/16"
            raise InputError(f"--shard={text}: shards are counted from 0; give K/N, {last}")
        return share

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """Of its file or folder."""
        return f"{self.index}-of-{self.count}"


def dealt(questions: Sequence[Question], share: Share) -> list[Question]:
    """The questions of one share, in their order."""
    places: dict[object, int] = {}
    for at, question in enumerate(questions):
        places.setdefault(_together(question, at), len(places))
    mine = (places[_together(q, at)] % share.count == share.index for at, q in enumerate(questions))
    return [question for question, is_mine in zip(questions, mine, strict=True) if is_mine]


def _together(question: Question, at: int) -> object:
    """The same value for questions that stay together."""
    return question.dialogue if question.own_history else question.images or at


def found(folder: Path) -> dict[Share, Path]:
    """The shares that lie in a folder, by name, in order. Raises InputError when they were dealt in different ways."""
    shares = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            shares[Share(int(match[1]), int(match[2]))] = path
    counts = sorted({share.count for share in shares})
    if len(counts) > 1:
        raise InputError(f"{folder}: holds shares of {' and of '.join(map(str, counts))}; delete those of one number")
    return dict(sorted(shares.items()))


def folder_of(path: str | Path) -> Path:
    """The folder of the shares of a file."""
    return Path(f"{path}.shards")


def all_of(there: Mapping[Share, Path]) -> list[Share]:
    """The shares that these belong to, in order; none without these."""
    count = next(iter(there)).count if there else 0
    return [Share(index, count) for index in range(count)]


def check_none_open(folder: Path, named: Sequence[str], what: str = "answers") -> None:
    """Raises InputError where something is missing from some shares, which are named as --shard takes them."""
    if named:
        raise InputError(f"{folder}: {what} are missing; run again --shard={', '.join(named)}")


def check_number(folder: Path, share: Share) -> None:
    """Raises InputError when the folder holds shares of another number, which were dealt otherwise."""
    other = {one.count for one in found(folder)} - {share.count}
    if other:
        number = other.pop()
        raise InputError(
            f"--shard={share}: {folder} holds shares of {number}; go on with --shard=K/{number}, or --join them first"
        )


def append(path: Path, parts: Iterable[Path]) -> None:
    """Puts the answers of these files into the file `path`, which may hold some of them already."""
    with AnswersFile(path) as whole:
        for part in parts:
            whole.append(answers_file.read(part))


def remove(folder: Path) -> None:
    """Removes a folder of shares, whose answers are elsewhere now."""
    shutil.rmtree(folder, ignore_errors=True)
