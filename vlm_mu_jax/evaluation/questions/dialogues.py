"""Dialogues: every question of a conversation, asked behind the model's own earlier answers or behind the data's."""

import dataclasses
from collections.abc import Callable, Sequence

from vlm_mu_jax.data import turns
from vlm_mu_jax.data.placing import open_with
from vlm_mu_jax.data.records import Record, Records, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.questions.question import Question

HISTORIES = ("own", "data")


def is_dialogue(record: Record) -> bool:
    """Whether a record has several questions, of which no single one is meant."""
    return record.questions > 1 and not record.at


def questions(
    records: Records,
    chosen: Sequence[Record],
    history: str = "own",
    attack: str = "none",
    words: Sequence[str] = (),
    turn: str = turns.FIRST,
) -> list[Question]:
    """Every question of these dialogues, the first ones first.

    Args:
      history: whose earlier answers stand before a question: the model's "own", or those of the "data".
      attack: what the answers file calls the change of a question.
      words: the first words of one question; each makes a dialogue of its own, a shot. () changes nothing.
      turn: which question that is, "first", "last" or its number. Dialogues without it are not asked.

    Raises InputError for another history or turn, or where a dialogue has no answers of its own to stand before a
    question.
    """
    if history not in HISTORIES:
        raise InputError(f"--history={history}: is none of {', '.join(HISTORIES)}")
    asked, number = [], turns.number_of(turn)
    for record in chosen if not words else [one for one in chosen if one.questions >= number]:
        for shot, word in enumerate(words or (None,)):
            changed = record if word is None else _opened(record, word, number)
            condition = Condition(attack, None if word is None else "question_start", word, shot)
            asked += _turns(records, changed, history, condition)
    return sorted(asked, key=lambda question: question.condition.turn)


def at_last(records: Records) -> Records:
    """Every conversation at its last question, behind the file's earlier turns.

    Raises InputError where an earlier question has no answer in the file.
    """
    cut = tuple(record.at_question(-1) for record in records)
    for record in cut:
        if any(map(_silent, record.turns[: 2 * record.at])):
            raise InputError(
                f"{records.source}: {record.id} has no answers of its own before its last question; bin/eval asks such"
                " dialogues behind the model's answers"
            )
    return dataclasses.replace(records, items=cut)


def turn_by_turn(
    questions: Sequence[Question], ask: Callable[[Sequence[Question], int], Sequence[Answer]]
) -> list[Answer]:
    """Answers to the questions of dialogues, each behind the answers to the dialogue's earlier questions.

    ask: (questions of one turn, the turn) -> their answers.
    """
    said: dict[tuple, list[str]] = {}
    found: dict[int, Answer] = {}
    for turn in sorted({question.condition.turn for question in questions}):
        at = [i for i, question in enumerate(questions) if question.condition.turn == turn]
        some = [questions[i].behind(said[questions[i].dialogue]) if turn > 1 else questions[i] for i in at]
        answers = ask([dataclasses.replace(question, own_history=False) for question in some], turn)
        for i, answer in zip(at, answers, strict=True):
            said.setdefault(questions[i].dialogue, []).append(answer.answer)
            found[i] = answer
    return [found[i] for i in range(len(questions))]


def _opened(record: Record, word: str, number: int) -> Record:
    """The dialogue with `word` as the first word of one of its questions."""
    at = 2 * record.at_question(number).at
    own = record.turns[at]
    opened = own.with_text(open_with(own.text.strip(), word))
    return dataclasses.replace(record, turns=(*record.turns[:at], opened, *record.turns[at + 1 :]))


def _turns(records: Records, record: Record, history: str, condition: Condition) -> list[Question]:
    found = []
    for number in range(1, record.questions + 1):
        here = record.at_question(number)
        if history == "data" and any(_silent(turn) for turn in here.turns[: 2 * here.at]):
            raise InputError(
                f"{records.source}: {record.id} has no answers of its own before question {number}; use --history=own"
            )
        at = dataclasses.replace(condition, image="own" if here.images else "none", turn=number)
        question = Question.of(records, here, at)
        found.append(dataclasses.replace(question, own_history=history == "own" and number > 1))
    return found


def _silent(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.text.strip()
