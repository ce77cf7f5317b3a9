"""The questions of a defence's evaluation: instruction settings x image conditions, in the manner of VLM-Guard.

    direct        requests in plain words (text_harm.json)
    template      the same requests inside jailbreak templates of the user's; every template is a shot
    image_needed  requests that point at their image (image_needed.json, else the VLGuard questions of test.json)
    one_word      the direct requests after a one-word attack; every word is a shot

Each setting is asked with text only, with a blank image and with the requests' own images. A request in a conversation
is its last question, behind the file's earlier turns, and that is what templates and words change. Utility questions
are asked once. A set is called SETTING_CONDITION, such as direct_blank_image. `table` says what is measured.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_mu_jax.data import questions
from vlm_mu_jax.data.placing import open_with
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Condition
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.evaluation.questions.question import BLANK, Question
from vlm_mu_jax.evaluation.questions.suite import GAP, Suite, sample
from vlm_mu_jax.files.json_file import parse_json

SETTINGS = ("direct", "template", "image_needed", "one_word")
IMAGES = GAP
UTILITY = "utility"
TEMPLATES = "jailbreak_templates.json"
_DIRECT, _IMAGE_NEEDED, _VLGUARD = "text_harm.json", "image_needed.json", "test.json"


@dataclasses.dataclass(frozen=True)
class _Shot:
    """One way of asking: the attack's name, its word (or template), and what it makes of a question."""

    attack: str
    word: str | None
    put: Callable[[str], str]
    number: int = 0


_AS_IT_IS = _Shot("none", None, lambda question: question)


@dataclasses.dataclass(frozen=True)
class AttackShots:
    """What requests are put into: templates as (name, text with {question}), and the words of a one-word attack."""

    templates: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()


def build(
    data_dir: str | Path,
    attacks: AttackShots = AttackShots(),
    settings: Sequence[str] = SETTINGS,
    images: Sequence[str] = IMAGES,
    blank: str = "white",
    limit: int | None = None,
    seed: int = 0,
    with_images: bool = True,
) -> Suite:
    """All questions. A setting without its file, templates or words is left out.

    Args:
      settings, images: which to ask.
      blank: kind of the blank image.
      limit: at most this many records of each kind per file, drawn by `seed`; None = all.
      with_images: False for a text-only model, which is asked the text alone and no utility questions.

    Raises InputError for an unknown setting or condition, a bad file, or when nothing is left to ask.
    """
    for flag, chosen, known in (("settings", settings, SETTINGS), ("images", images, IMAGES)):
        if unknown := [name for name in chosen if name not in known]:
            raise InputError(f"--{flag}: {', '.join(unknown)} is unknown; use some of {', '.join(known)}")
    data_dir = Path(data_dir)
    images = [name for name in images if with_images or name == "text_only"]
    sets: dict[str, list[Question]] = {}
    owners: dict[str, Records] = {}

    def add(setting: str, records: Records, shots: Sequence[_Shot]) -> None:
        for image in images:
            name = f"{setting}_{image}"
            sets[name] = [question for shot in shots for question in _questions(records, image, blank, shot)]
            owners[name] = records

    def read(name: str) -> Records:
        records = dialogues.at_last(questions.read(data_dir / name).of_kind("unsafe", "safe"))
        # Unsafe questions about harmless images: upstream scores them apart, and no image is needed to see the harm.
        items = tuple(r for r in records if r.source != "vlguard/safe_unsafes")
        if not items:
            raise InputError(f"{data_dir / name}: holds neither unsafe nor safe requests; check the file")
        return sample(dataclasses.replace(records, items=items), limit, seed)

    if (data_dir / _DIRECT).exists() and {"direct", "template", "one_word"} & set(settings):
        records = read(_DIRECT)
        for setting, shots in _shots(attacks).items():
            if setting in settings and shots:
                add(setting, records, shots)
    needing = _IMAGE_NEEDED if (data_dir / _IMAGE_NEEDED).exists() else _VLGUARD
    if "image_needed" in settings and (data_dir / needing).exists():
        add("image_needed", read(needing), [_AS_IT_IS])
    if with_images and (data_dir / "utility.json").exists():
        owners[UTILITY] = dialogues.at_last(sample(questions.read(data_dir / "utility.json"), limit, seed))
        sets[UTILITY] = _questions(owners[UTILITY], "own_image", blank, _AS_IT_IS)
    sets = {name: questions for name, questions in sets.items() if questions}
    if not sets.keys() - {UTILITY}:
        raise InputError(f"--data={data_dir}: holds nothing to ask ({_DIRECT}, {_IMAGE_NEEDED} or {_VLGUARD})")
    records_of = {name: {record.id: record for record in owners[name]} for name in sets}
    return Suite(sets, records_of, {owner.source.name: owner.sha256 for owner in owners.values()})


def read_templates(path: str | Path) -> tuple[tuple[str, str], ...]:
    """(name, template) of a JSON object {name: text with {question}}. Raises InputError when it is anything else."""
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --jailbreak_templates") from None
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error}); correct the file") from None
    good = isinstance(content, dict) and all(isinstance(t, str) and "{question}" in t for t in content.values())
    if not good or not content:
        raise InputError(f"{path}: expected an object of templates, each a text with {{question}} in it")
    return tuple(content.items())


def _shots(attacks: AttackShots) -> dict[str, list[_Shot]]:
    """How the direct requests are asked in each setting."""

    def in_template(text: str) -> Callable[[str], str]:
        return lambda question: text.replace("{question}", question)

    def with_word(word: str) -> Callable[[str], str]:
        return lambda question: open_with(question, word)

    return {
        "direct": [_AS_IT_IS],
        "template": [_Shot("template", name, in_template(t), k) for k, (name, t) in enumerate(attacks.templates)],
        "one_word": [_Shot("one_word", word, with_word(word), k) for k, word in enumerate(attacks.words)],
    }


def _questions(records: Records, image: str, blank: str, shot: _Shot) -> list[Question]:
    """The records under one shot and image condition; with their own images only those that have some."""
    name = {"text_only": "none", "blank_image": f"{BLANK}{blank}"}.get(image, "own")
    condition = Condition(attack=shot.attack, word=shot.word, shot=shot.number, image=name)
    chosen = [r for r in records if name != "own" or r.images]
    asked = [Question.of(records, r, condition, shot.put(r.question)) for r in chosen]
    return asked if name == "own" else [one.showing(None if name == "none" else name) for one in asked]
