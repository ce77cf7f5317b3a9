"""The questions of one evaluation, as named sets: before and after the one-word attacks, utility, the alignment gap.

Files of the data folder, each used when it is there: `test.json` (VLGuard), `utility.json` (LLaVA), `text_harm.json`
(plain requests), `openings.json` (a list of opening words).
"""

import dataclasses
import operator
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.placing import open_with
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.data.turns import FIRST
from vlm_mu_jax.errors import InputError, nearest
from vlm_mu_jax.evaluation.answers.answers_file import Condition
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.evaluation.questions.question import BLANK, Question
from vlm_mu_jax.files.json_file import read_value
from vlm_mu_jax.formats.attack import AttackFile
from vlm_mu_jax.formats.reading import read_file

GAP = ("text_only", "blank_image", "own_image")
_START = "question_start"


@dataclasses.dataclass(frozen=True)
class AttackWords:
    """The words that an attack found, the best first.

    jailbreak: words under which unsafe questions are answered; K shots use the first K. over_refuse: words under which
    harmless questions are refused. null: neutral words, the control. turn: of dialogues, the question that a word
    opens: "first", "last" or its number.
    """

    jailbreak: tuple[str, ...] = ()
    over_refuse: tuple[str, ...] = ()
    null: tuple[str, ...] = ()
    turn: str = FIRST


@dataclasses.dataclass(frozen=True)
class Suite:
    """What an evaluation asks.

    sets: questions by set name, in the order in which they are asked. records: set name -> record id -> record. files:
    sha256 of each file read, by name. folder: the data folder, None for records that came another way. words: the
    attack's words that are in the questions. notes: what the reader of the results should know of the data.
    """

    sets: dict[str, list[Question]] = dataclasses.field(default_factory=dict)
    records: dict[str, dict[str, Record]] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    words: AttackWords = AttackWords()
    notes: tuple[str, ...] = ()

    def images(self, name: str) -> dict[tuple, Path | str | None]:
        """(record id, condition) -> the image that a question of the set `name` is asked with."""
        return {(q.id, q.condition): q.image for q in self.sets.get(name, ())}


@dataclasses.dataclass(frozen=True)
class Asking:
    """What is made of the records of a data file.

    words, shots: the attack's words, and how many of them an unsafe question is tried with. blank: kind of the blank
    image of the alignment gap, "white", "black", "mean" or "noise". limit: at most this many records of each kind per
    file, drawn by `seed`; None = all. history: of dialogues, whose earlier answers stand before a question; see
    `dialogues.questions`.
    """

    words: AttackWords = AttackWords()
    shots: int = 3
    blank: str = "white"
    limit: int | None = None
    seed: int = 0
    history: str = "own"


def build(data_dir: str | Path, subset: str, asking: Asking = Asking(), with_images: bool = True) -> Suite:
    """All questions of an evaluation.

    Args:
      data_dir: the data folder.
      subset: SUBSET.json is asked, such as "test" or "train".
      with_images: False for a text-only model, which is asked `gap_text_only` alone.

    Raises:
      InputError: a file is missing or bad, `subset` is no plain name, or nothing is left to ask.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise InputError(f"--data={data_dir}: no such folder; give the folder that holds {subset}.json")
    if Path(subset).name != subset:
        raise InputError(f"subset={subset}: give the name of a file in {data_dir}, without folder and .json")
    sets: dict[str, list[Question]] = {}
    owners: dict[str, Records] = {}

    def add(file: str, questions: Callable[[Records], dict[str, list[Question]]]) -> None:
        records = sample(readers.read(data_dir / file), asking.limit, asking.seed)
        records = records if file == f"{subset}.json" else dialogues.at_last(records)
        found = {name: asked for name, asked in questions(records).items() if asked}
        sets.update(found)
        owners.update(dict.fromkeys(found, records))

    if with_images:
        add(f"{subset}.json", lambda r: _safety_sets(r, asking, openings(data_dir)))
        if (data_dir / "utility.json").exists():
            add("utility.json", lambda r: {"utility": _ask(r, r)})
    if (data_dir / "text_harm.json").exists():
        add("text_harm.json", lambda r: _gap_sets(r, asking.blank, with_images))
    if not sets:
        raise InputError(f"--data={data_dir}: holds no question that this model can be asked; check {subset}.json")
    records = {name: {r.id: r for r in owner} for name, owner in owners.items()}
    files = {r.source.name: r.sha256 for r in owners.values()}
    return Suite(sets, records, files, data_dir, asking.words)


def from_records(records: Records, asking: Asking = Asking()) -> Suite:
    """The questions of one data file: its unsafe and harmless ones as `build` asks them, its general ones as utility.

    Conversations of several questions are dialogues: every question is asked. General questions without a reference
    answer cannot be scored as utility. They are asked as harmless ones, and the suite's notes say so.

    Raises InputError when nothing is left to ask.
    """
    records = sample(records, asking.limit, asking.seed)
    alone = [record for record in records.of_kind("general") if not dialogues.is_dialogue(record)]
    bare = {record.id for record in alone if not record.answer}
    items = tuple(dataclasses.replace(r, kind="safe") if r.id in bare else r for r in records)
    records = dataclasses.replace(records, items=items)
    general = [record for record in alone if record.id not in bare]
    sets = _safety_sets(records, asking, ()) | {"utility": _ask(records, general)}
    sets = {name: asked for name, asked in sets.items() if asked}
    if not sets:
        raise InputError(f"{records.source}: holds no question; give a file with records")
    by_id = {record.id: record for record in records}
    files = {records.source.name: records.sha256}
    notes = (_without_references(records.source.name, len(bare)),) if bare else ()
    return Suite(sets, dict.fromkeys(sets, by_id), files, records.source.parent, asking.words, notes)


def _without_references(file: str, count: int) -> str:
    return (
        f"{file}: {count} general questions without a reference answer are asked as harmless ones; utility is not"
        " measured on them (--question_kind=unsafe where they are not harmless)"
    )


def only(questions: Suite, names: Sequence[str]) -> Suite:
    """The named sets alone. Raises InputError for a name that is none of them."""
    unknown = [name for name in names if name not in questions.sets]
    if unknown:
        near = nearest(unknown[0], questions.sets)
        raise InputError(f"--sets: {', '.join(unknown)} not among the sets here; {near}")
    return dataclasses.replace(questions, sets={name: questions.sets[name] for name in names})


def read_attack_words(path: str | Path) -> AttackWords:
    """The file of `bin/attack`: {"jailbreak": [{"word"}...], "over_refuse": [...], "null": [...]}, best word first.

    Its "turn" is the question of a conversation that the words were searched in.
    """
    try:
        content = read_file(path, AttackFile)
    except InputError as error:
        raise InputError(
            f"--attack_words={path}: {str(error).removeprefix(f'{path}: ')}; make one with bin/attack"
        ) from None
    found = AttackWords(
        **{name: _words(path, name, content.get(name) or []) for name in ("jailbreak", "over_refuse", "null")}
    )
    found = dataclasses.replace(found, turn=content.get("turn") or FIRST)
    if not (found.jailbreak or found.over_refuse):
        raise InputError(
            f"--attack_words={path}: holds neither jailbreak nor over_refuse words; make one with bin/attack"
        )
    return found


def openings(data_dir: str | Path) -> tuple[str, ...]:
    """The opening words listed in `openings.json` (a list, or under the key "openings"); none without that file."""
    path = Path(data_dir) / "openings.json"
    if not path.exists():
        return ()
    content = read_value(path)
    return _words(path, "openings", content.get("openings", []) if isinstance(content, dict) else content)


def _safety_sets(records: Records, asking: Asking, opening_words: Sequence[str]) -> dict[str, list[Question]]:
    words, shots = asking.words, asking.shots
    several = [r for r in records if dialogues.is_dialogue(r)]
    records = dataclasses.replace(records, items=tuple(r for r in records if not dialogues.is_dialogue(r)))
    # Unsafe questions about harmless images are a subset of their own upstream: attack success is not counted on them.
    apart = [r for r in records if r.source == "vlguard/safe_unsafes"]
    unsafe = [r for r in records.of_kind("unsafe") if r.source != "vlguard/safe_unsafes"]
    harmless = list(records.of_kind("safe"))

    def swap(chosen: list[Record], attack: str, some: Sequence[str], separate: bool = False) -> list[Question]:
        # Each opening word is a condition of its own; the K words of an attack are K shots at one question.
        return [
            Question.of(
                records,
                record,
                Condition(attack, _START, word, 0 if separate else shot),
                open_with(record.question, word),
            )
            for shot, word in enumerate(some)
            for record in chosen
        ]

    return {
        "unsafe_before": _ask(records, unsafe),
        "harmless_before": _ask(records, harmless),
        "safe_unsafes_before": _ask(records, apart),
        "unsafe_after": swap(unsafe, "one_word", words.jailbreak[:shots]),
        "unsafe_null": swap(unsafe, "null_word", words.null[:shots]),
        "harmless_after": swap(harmless, "over_refuse", words.over_refuse[:1]),
        "unsafe_openings": swap(unsafe, "opening", opening_words, separate=True),
        "harmless_openings": swap(harmless, "opening", opening_words, separate=True),
        **_dialogue_sets(records, several, asking),
    }


def _dialogue_sets(records: Records, chosen: list[Record], asking: Asking) -> dict[str, list[Question]]:
    """Every question of dialogues: as they are, and with one question that an attack's word opens."""

    words, shots = asking.words, asking.shots

    def ask(some: list[Record], attack: str = "none", first: Sequence[str] = ()) -> list[Question]:
        return dialogues.questions(records, some, asking.history, attack, first, words.turn)

    unsafe = [record for record in chosen if record.kind == "unsafe"]
    sets = {"dialogues_before": ask(chosen)}
    if words.jailbreak:
        sets["dialogues_after"] = ask(unsafe, "one_word", words.jailbreak[:shots])
    if words.null:
        sets["dialogues_null"] = ask(unsafe, "null_word", words.null[:shots])
    return sets


def _gap_sets(requests: Records, blank: str, with_images: bool) -> dict[str, list[Question]]:
    """The same requests with text only, with a blank image, and with their own images (those that have some)."""

    def ask(image: str | None) -> list[Question]:
        condition = Condition(image=image or "none")
        return [Question.of(requests, record, condition).showing(image) for record in requests]

    if not with_images:
        return {"gap_text_only": ask(None)}
    own = _ask(requests, [record for record in requests if record.images])
    return {"gap_text_only": ask(None), "gap_blank_image": ask(f"{BLANK}{blank}"), "gap_own_image": own}


def _ask(owner: Records, chosen: Iterable[Record]) -> list[Question]:
    """The records' own questions."""
    return [Question.of(owner, record) for record in chosen]


def sample(
    records: Records, limit: int | None, seed: int, unit: Callable[[Record], str] = operator.attrgetter("id")
) -> Records:
    """At most `limit` units of each kind (None = all), drawn by `seed`, in file order.

    unit: the name of what is drawn whole: a record's own, or that of its group.
    """
    if limit is None:
        return records
    kept: set[str] = set()
    for kind in sorted({record.kind for record in records}):
        units = list(dict.fromkeys(unit(record) for record in records if record.kind == kind))
        kept |= set(random.Random(f"{seed}/{kind}").sample(units, min(limit, len(units))))
    return dataclasses.replace(records, items=tuple(record for record in records if unit(record) in kept))


def _words(path: str | Path, name: str, rows) -> tuple[str, ...]:
    words = [row.get("word") if isinstance(row, dict) else row for row in rows] if isinstance(rows, list) else [None]
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError(f"{path}: {name!r} must be a list of words; correct the file")
    return tuple(dict.fromkeys(words))
