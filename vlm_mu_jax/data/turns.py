"""Which question of a conversation is looked at: the first, the last, or one by its number."""

from collections.abc import Sequence

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError

FIRST = "first"


def number_of(turn: str) -> int:
    """The number of a question, from 1; -1 for the last one. Raises InputError for a text that names none."""
    number = {FIRST: 1, "last": -1}.get(turn) or (int(turn) if turn.isdecimal() else 0)
    if not number:
        raise InputError(f"--turn={turn}: is none; give first, last, or a question's number from 1")
    return number


def named(turn: str) -> str:
    """ "the first question", "the last question" or "question 3"."""
    return f"question {turn}" if turn.isdecimal() else f"the {turn} question"


def cut(records: Sequence[Record], turn: str) -> tuple[list[Record], dict[str, int]]:
    """Every conversation up to one of its questions, which `Record.question` and `Record.answer` then are.

    Args:
      turn: "first", "last", or the question's number from 1.

    Returns:
      The conversations that have the question, and how many of them have earlier turns before it ("behind_turns"), how
      many go on behind it ("before_turns"), and how many conversations lack it ("left_out").

    Raises InputError for another text, or where no conversation has that question.
    """
    number = number_of(turn)
    there = [record for record in records if record.questions >= abs(number)]
    if records and not there:
        raise InputError(f"--turn={turn}: no conversation has a question {number}; choose another")
    kept = [record.at_question(number) for record in there]
    counts = {
        "behind_turns": sum(record.at > 0 for record in kept),
        "before_turns": sum(record.questions > number > 0 for record in there),
        "left_out": len(records) - len(kept),
    }
    return kept, counts
