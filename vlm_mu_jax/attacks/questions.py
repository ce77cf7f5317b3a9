"""Which questions an attack uses: by goal, drawn by seed, searched and verified apart."""

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data import turns
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.data.tiling import Tiles
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import over_length
from vlm_mu_jax.steering.shapes import check_shapes
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class SearchQuestion:
    """A question of a search.

    Attributes:
      question: its words.
      image: a file, what `Processor.pixels` makes of one, or None. Of several images the first.
      more_images: the further images of the prompt, in order.
      context: the conversation around the question; None where it stands alone, behind its images.

    Raises:
      InputError: pixels that are not [H, W, 3].
    """

    question: str
    image: Path | np.ndarray | Tiles | None = None
    more_images: tuple[Path | np.ndarray | Tiles, ...] = ()
    context: Context | None = None

    def __post_init__(self) -> None:
        for image in self.images:
            if isinstance(image, np.ndarray):
                check_shapes(image_HWC=image)

    @property
    def images(self) -> tuple[Path | np.ndarray | Tiles, ...]:
        """All images of the prompt, in order."""
        return () if self.image is None else (self.image, *self.more_images)

    def key(self, role: str) -> str:
        """Names the question by its content; the images count by their bytes."""
        images = [one.read_bytes() if isinstance(one, Path) else one.tobytes() for one in self.images]
        parts = [role.encode(), self.question.encode(), *(images or [b""])]
        if self.context is not None:
            parts.append(repr(self.context).encode("utf-8", "replace"))
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def pixels(self, processor: Processor) -> tuple[np.ndarray | Tiles, ...]:
        """The pixels of its images, as `Processor.pixels` makes them."""
        pairs = zip(self.images, processor.together(self.images), strict=True)
        return tuple(processor.pixels(shown) if isinstance(one, Path) else one for one, shown in pairs)


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
    return next(iter(record.images), None) or record.id.partition("#")[0]


def search_questions(records: Records) -> list[SearchQuestion]:
    """The questions as a search takes them; images are read when their turn comes."""
    return [_search_question(records, record) for record in records]


def _search_question(records: Records, record: Record) -> SearchQuestion:
    first, *more = records.image_paths(record) or (None,)
    return SearchQuestion(record.question, first, tuple(more), Context.of(record))


def _fitting(records: Records, model: Model, new_tokens: int) -> Records:
    def fits(record: Record) -> bool:
        prompt = record.question, records.image_paths(record), Context.of(record)
        return not over_length(model, len(model.processor.prompt_ids(*prompt)), new_tokens)

    return dataclasses.replace(records, items=tuple(filter(fits, records)))


def image_to_change(images: Sequence[Any], number: int | None) -> int:
    """The index of the image that an attack changes among those of a prompt.

    number: from 1; None is the last one. Raises InputError where there is none.
    """
    if number is not None and not 1 <= number <= len(images):
        raise InputError(f"--image={number}: a question has {len(images)} images; choose another")
    return len(images) - 1 if number is None else number - 1


@dataclasses.dataclass(frozen=True)
class AttackRecords:
    """The data of an attack.

    Attributes:
      verify: the questions that it is measured on.
      search: the questions that a search sees. It must not hold questions of `verify`.
      safety: records, or their file, in whose reference answers refusal openings and beginnings of answers are found;
        also the data of the candidates "audit". None: `verify`.
      split: where the search questions come from, for the result.
      turns: of conversations, what `at_turn` and `fitting` counted.
    """

    verify: Records
    search: Records
    safety: Records | Path | None = None
    split: str = "given"
    turns: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def halved(cls, records: Records, seed: int = 0) -> "AttackRecords":
        """One half is searched on, the other is verified on; no image is in both."""
        search, verify = halves(records, seed)
        return cls(verify, search, records, "halves")

    @classmethod
    def from_folder(cls, folder: str | Path, split: str = "auto", seed: int = 0) -> "AttackRecords":
        """The files of a data folder: train.json, validation.json, test.json.

        Args:
          split: "train" or "validation" searches on that file and verifies on test.json. "test" splits test.json in
            halves. "auto" takes validation.json where there is one, else "test". The data that a model was tuned on are
            searched only if told to: the model may know those questions by heart.

        Raises:
          InputError: a file is missing or broken.
        """
        from vlm_mu_jax.data import questions

        folder = Path(folder)
        if split == "auto":
            split = "validation" if (folder / "validation.json").exists() else "test"
        files = [folder / name for name in ("train.json", "test.json")]
        safety = next((file for file in files if file.exists()), files[-1])
        test = questions.read(folder / "test.json")
        if split == "test":
            search, verify = halves(test, seed)
            return cls(verify, search, safety, split)
        return cls(test, questions.read(folder / f"{split}.json"), safety, split)

    @classmethod
    def from_file(
        cls, file: str | Path, kind: str | None = None, columns: Mapping[str, str] | None = None, seed: int = 0
    ) -> "AttackRecords":
        """The questions of one file, in halves; `kind` and `columns` as in `data.questions.read`.

        Raises:
          InputError: the file is missing or broken.
        """
        from vlm_mu_jax.data import questions

        return cls.halved(questions.read(file, kind, columns), seed)

    @classmethod
    def read(
        cls,
        data: str | Path,
        split: str = "auto",
        kind: str | None = None,
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> "AttackRecords":
        """The questions of a data folder, or of one file of questions.

        Args:
          split: of a folder; see `from_folder`.
          kind, columns: of a file; see `from_file`.

        Raises:
          InputError: a file is missing or broken, or what is given belongs to the other kind of data.
        """
        data = Path(data)
        if data.is_file():
            if split in ("train", "validation"):
                raise InputError(f"--search_split={split} names a file of a data folder; --data={data} is a file")
            return cls.from_file(data, kind, columns, seed)
        if kind or columns:
            raise InputError("--kind and --columns are for a file of questions as --data; leave them out")
        return cls.from_folder(data, split, seed)

    def at_turn(self, turn: str) -> "AttackRecords":
        """The same data with every conversation up to one of its questions, which is then attacked; see
        `data.turns.cut`."""
        found = [turns.cut(records, turn) for records in (self.verify, self.search)]
        counts = {name: sum(one[name] for _, one in found) for name in found[0][1]}
        verify, search = (
            dataclasses.replace(records, items=tuple(kept))
            for records, (kept, _) in zip((self.verify, self.search), found, strict=True)
        )
        safety = self.safety
        if safety is not None and turn != turns.FIRST:
            whole = self.safety_records()
            safety = dataclasses.replace(whole, items=tuple(turns.cut(whole, turn)[0]))
        return dataclasses.replace(self, verify=verify, search=search, safety=safety, turns=counts)

    def fitting(self, model: Model, new_tokens: int) -> "AttackRecords":
        """The same data without questions whose prompt and answer are longer than the model's positions; `turns` then
        says how many there were ("too_long").

        Raises InputError when none is left.
        """
        parts = [_fitting(records, model, new_tokens) for records in (self.verify, self.search)]
        too_long = len(self.verify) + len(self.search) - sum(map(len, parts))
        if not too_long:
            return self
        if not all(map(len, parts)):
            raise InputError(f"{self.verify.source}: its prompts are longer than the model's positions; use others")
        verify, search = parts
        return dataclasses.replace(self, verify=verify, search=search, turns={**self.turns, "too_long": too_long})

    def safety_records(self) -> Records:
        """The records behind `safety`, read now where it is a file."""
        from vlm_mu_jax.data import readers

        if isinstance(self.safety, Path):
            return readers.read(self.safety, check_images=False)
        return self.verify if self.safety is None else self.safety
