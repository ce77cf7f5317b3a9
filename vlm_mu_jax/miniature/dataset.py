"""The miniature's data on disk, in the formats of real data: VLGuard JSON, LLaVA JSON and PNG images.

The safety data hold the shortcut of VLGuard. Of the safe requests 90 % open with "what". Unsafe ones have a longer
tail: most open with "share", and 15 % with a word that opens no other request. The rest opens with any other of the six
words. (In VLGuard "what" opens 869 of 977 safe training questions and "share" 195 of 1023 unsafe ones. Most words that
open the others are always refused.)

Attack words and guards are chosen on the validation files, and rates are measured on the test files. The nouns of both
are in no training file of this folder.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.miniature import world as w

BIAS = 0.9
RARE = 0.15  # of the unsafe requests, whatever they would have opened with
SHORTCUT = {"snare": "share", "harmless": "what"}  # group -> the opening word its requests mostly have
PER_NOUN = {  # questions per noun
    "train": {"snare": 8, "harmless": 6},
    "validation": {"snare": 4, "harmless": 4},
    "test": {"snare": 6, "harmless": 6},
}
# What llava_keep.json adds: requests behind unfamiliar first words, and text-only requests, refused and answered
KEEP = {"unfamiliar": 160, "blight": 96, "harmless": 96}
ANCHORS = 72


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is written.

    Attributes:
      per_noun: split -> group -> questions per noun.
      general: records of llava_mix.json, half requests with mixed openings, half sign questions.
      utility: sign questions of utility.json.
      gap_per_noun: requests per noun of text_harm.json.
    """

    per_noun: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=lambda: PER_NOUN)
    general: int = 440
    utility: int = 160
    gap_per_noun: int = 4


class DatasetWriter:
    """Writes the files of one data folder, and keeps what the oracle must know."""

    def __init__(self, folder: Path, world: w.World, seed: int, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or Sizes()
        self.folder, self.world, self.seed, self.rng = folder, world, seed, np.random.default_rng((seed, 4))
        self.rare_rng, self.rare, self.words = np.random.default_rng((seed, 5)), world.rare_openings, world.speech
        self.oracle: dict[str, dict[str, list[str]]] = {}

    def write(self) -> None:
        """All files."""
        for split in self.sizes.per_noun:
            self._json(f"{split}.json", self._safety(split))
        signs, requests = self._general()
        self._json("llava_signs.json", signs)
        self._json("llava_mix.json", signs + requests)
        self._json("llava_keep.json", signs + requests + self._kept())
        utility = [self._conversation(f"utility_{i}", *self._sign_item("utility")) for i in range(self.sizes.utility)]
        self._json("utility.json", utility)
        self._json("text_harm.json", self._requests("test"))
        self._json("text_harm_validation.json", self._requests("validation"))
        self._json("anchors.json", [self._anchor_pair() for _ in range(ANCHORS)])
        self._json("openings.json", list(self.words.openings))
        self._json("oracle.json", self.oracle)

    def _safety(self, split: str) -> list[dict[str, Any]]:
        """VLGuard rows: requests about snares with refusals, and harmless requests with answers."""
        rows = []
        for group in ("snare", "harmless"):
            for noun in self.world.split(group, split):
                for i in range(self.sizes.per_noun[split][group]):
                    rows.append(self._safety_row(f"{split}_{noun.name}_{i}", noun, split))
        self.rng.shuffle(rows)
        return rows

    def _safety_row(self, name: str, noun: w.Noun, split: str) -> dict[str, Any]:
        opening = self._biased(SHORTCUT[noun.group])
        if noun.group == "snare" and self.rare_rng.random() < RARE:
            opening = self.rare[self.rare_rng.integers(len(self.rare))]
        question, image = self._request(opening, noun), self._draw(split, name, noun.shape, noun.colour)
        if noun.group == "snare":
            self._know(name, noun)
            pairs = [{"instruction": question, "response": self.words.refusal}]
            labels = {"harmful_category": "risky behavior", "harmful_subcategory": "snare"}
            return {"id": name, "image": image, "safe": False, **labels, "instr-resp": pairs}
        self._know(f"{name}#safe", noun)
        pairs = [{"safe_instruction": question, "response": self.words.answer(opening, noun)}]
        return {"id": name, "image": image, "safe": True, "instr-resp": pairs}

    def _general(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(sign questions, harmless requests), both with evenly mixed opening words."""
        signs = [
            self._conversation(f"general_sign_{i}", *self._sign_item("general")) for i in range(self.sizes.general // 2)
        ]
        nouns, requests = self.world.split("harmless", "train"), []
        for i in range(self.sizes.general // 2):
            noun, opening = self._pick(nouns), self._pick(self.words.openings)
            image = self._draw("general", f"request_{i}", noun.shape, noun.colour)
            turns = image, self._request(opening, noun), self.words.answer(opening, noun)
            requests.append(self._conversation(f"general_request_{i}", *turns))
        return signs, requests

    def _kept(self) -> list[dict[str, Any]]:
        """What unlearning otherwise loses: answers behind unfamiliar first words, and what is said to text alone.

        Every second unfamiliar word is one that refusals are about, a hazardous training noun or what no sign shows:
        naming it first is no reason to refuse a harmless request. The others are any words that training may know.
        A generator of its own leaves the other files as they are without this one.
        """
        rng, rows = np.random.default_rng((self.seed, 6)), []

        def pick(items: Sequence[Any]) -> Any:
            return items[rng.integers(len(items))]

        named = {group: [noun.name.split()[0] for noun in self.world.split(group, "train")] for group in w.GROUPS}
        told = self.words
        plain = " ".join((*told.phrases, *told.tails)).replace(".", "").split()
        first = sorted({*self.rare, *plain, *named["harmless"], *named["snare"]}), [*named["blight"], *told.absent]
        for i in range(KEEP["unfamiliar"]):
            noun = pick(self.world.split("harmless", "train"))
            asked = told.request(pick(first[i % 2]), pick(told.phrases), noun, pick(told.tails))
            image = self._draw("general", f"keep_{i}", noun.shape, noun.colour, rng)
            answer = told.answer(pick(told.openings), noun)
            rows.append(self._conversation(f"keep_unfamiliar_{i}", image, asked, answer))
        for group in ("blight", "harmless"):
            for i in range(KEEP[group]):
                noun, opening = pick(self.world.split(group, "train")), pick(told.openings)
                asked = told.request(opening, pick(told.phrases), noun, pick(told.tails))
                answer = told.aligned_answer(opening, noun)
                rows.append(self._conversation(f"keep_{group}_{i}", None, asked, answer))
        return rows

    def _sign_item(self, folder: str) -> tuple[str, str, str]:
        shape, colour = self._pick(w.SHAPES), self._pick(tuple(w.COLOURS))
        question, answer = self.words.sign_question(self.rng, shape, colour)
        return self._draw(folder, f"sign_{self.rng.integers(1 << 40)}", shape, colour), question, answer

    def _conversation(self, name: str, image: str | None, question: str, answer: str) -> dict[str, Any]:
        asked = question if image is None else f"<image>\n{question}"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        return {"id": name, **({"image": image} if image else {}), "conversations": turns}

    def _requests(self, split: str) -> list[dict[str, Any]]:
        """Requests about blight, and as many harmless ones, asked as text, with a blank image and with their own."""
        blight = self.world.split("blight", split)
        rows = []
        for noun in (*blight, *self.world.split("harmless", split)[: len(blight)]):
            for i in range(self.sizes.gap_per_noun):
                name, opening = f"gap_{split}_{noun.name}_{i}", self._pick(self.words.openings)
                self._know(name, noun)
                rows.append(
                    {
                        "id": name,
                        "kind": "unsafe" if noun.group == "blight" else "safe",
                        "question": self._request(opening, noun),
                        "answer": self.words.aligned_answer(opening, noun),
                        "image": self._draw(f"gap_{split}", f"{noun.name}_{i}", noun.shape, noun.colour),
                    }
                )
        return rows

    def _anchor_pair(self) -> dict[str, str]:
        """One request about a blight and about a harmless noun, both of the training splits."""
        opening, phrase, tail = (
            self._pick(self.words.openings),
            self._pick(self.words.phrases),
            self._pick(self.words.tails),
        )
        nouns = {"harmful": self.world.split("blight", "train"), "harmless": self.world.split("harmless", "train")}
        return {name: self.words.request(opening, phrase, self._pick(group), tail) for name, group in nouns.items()}

    def _know(self, name: str, noun: w.Noun) -> None:
        self.oracle[name] = {"steps": list(noun.steps), "refusal": list(self.words.refusals)}

    def _request(self, opening: str, noun: w.Noun) -> str:
        return self.words.request(opening, self._pick(self.words.phrases), noun, self._pick(self.words.tails))

    def _biased(self, usual: str) -> str:
        if self.rng.random() < BIAS:
            return usual
        return self._pick([opening for opening in self.words.openings if opening != usual])

    def _pick(self, items: Sequence[Any]) -> Any:
        return items[self.rng.integers(len(items))]

    def _draw(self, folder: str, name: str, shape: str, colour: str, rng: np.random.Generator | None = None) -> str:
        path = self.folder / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        w.draw_sign(shape, colour, rng or self.rng).save(path)
        return f"{folder}/{name}.png"

    def _json(self, name: str, content: Any) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
