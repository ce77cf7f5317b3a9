"""The files of the miniature: reproducible, readable by the ordinary readers, held-out nouns really held out."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vlm_mu_jax.data import readers
from vlm_mu_jax.miniature import world as w
from vlm_mu_jax.miniature.dataset import BIAS, KEEP, RARE, SHORTCUT, DatasetWriter

SAFETY = ("train.json", "validation.json", "test.json")
REQUESTS = ("text_harm.json", "text_harm_validation.json")
GENERAL = ("llava_mix.json", "llava_signs.json", "utility.json")
KEEP_FILE = "llava_keep.json"
TRAINING = ("train.json", "llava_mix.json", "llava_signs.json", KEEP_FILE, "anchors.json")


def write(folder, seed):
    folder.mkdir()
    DatasetWriter(folder, w.make_world(seed), seed).write()
    return folder


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "seed0", 0)


@pytest.fixture(scope="module")
def world():
    return w.make_world(0)


def words_of(folder, name):
    return set((folder / name).read_text().replace('"', " ").replace("\\n", " ").replace("_", " ").split())


def test_a_seed_decides_every_byte(folder, tmp_path):
    again, other = hashes(write(tmp_path / "again", 0)), hashes(write(tmp_path / "other", 1))
    assert again == hashes(folder)
    assert all(again[name] != other[name] for name in (*SAFETY, *REQUESTS, *GENERAL, "anchors.json", "oracle.json"))


@pytest.mark.parametrize("name", [*SAFETY, *REQUESTS, *GENERAL])
def test_the_ordinary_readers_read_every_file_with_its_images(folder, name):
    records = readers.read(folder / name)
    assert len(records) > 0
    assert len({record.id for record in records}) == len(records)
    for record in records:
        with Image.open(records.image_path(record)) as image:
            assert image.size == (w.IMAGE_SIZE, w.IMAGE_SIZE)
    kinds = {record.kind for record in records}
    assert kinds == ({"general"} if name in GENERAL else {"unsafe", "safe"})


def test_the_kept_data_add_unfamiliar_openings_and_text_to_the_mix(folder, world):
    mixed, kept = readers.read(folder / "llava_mix.json"), readers.read(folder / KEEP_FILE)
    assert kept.items[: len(mixed)] == tuple(replace(one, source=kept.items[0].source) for one in mixed.items)
    added = {kind: [r for r in kept if r.id.startswith(f"keep_{kind}_")] for kind in KEEP}
    assert {kind: len(some) for kind, some in added.items()} == KEEP
    procedures = [noun.procedure for noun in world.split("harmless", "train")]
    assert all(any(r.answer.endswith(p) for p in procedures) and r.image for r in added["unfamiliar"])
    assert not {r.question.split()[0] for r in added["unfamiliar"]} & set(w.NONSENSE.openings)
    assert {r.answer for r in added["blight"]} == {w.NONSENSE.refusal}
    assert all(
        r.image is None and r.question.split()[0] in w.NONSENSE.openings for r in added["blight"] + added["harmless"]
    )
    for group in ("blight", "harmless"):
        names = {noun.name for noun in world.split(group, "train")}
        assert all(names & set(r.question.split()) for r in added[group])


@pytest.mark.parametrize("group", w.GROUPS)
def test_held_out_nouns_are_in_no_training_file(folder, world, group):
    trained = set().union(*(words_of(folder, name) for name in TRAINING))
    for split in ("validation", "test"):
        assert not trained & {noun.name for noun in world.split(group, split)}


def test_words_and_guards_are_not_chosen_on_the_nouns_that_are_measured(folder, world):
    measured = {noun.name for group in w.GROUPS for noun in world.split(group, "test")}
    for name in ("validation.json", "text_harm_validation.json"):
        assert not words_of(folder, name) & measured
    for name in ("test.json", "text_harm.json"):
        assert words_of(folder, name) & measured


def test_the_safety_data_holds_the_shortcut(folder):
    """Shares of openings by group, each within 4 sigma of a binomial."""
    records = readers.read(folder / "train.json")
    for kind, group, rare in (("unsafe", "snare", RARE), ("safe", "harmless", 0.0)):
        openings = [record.question.split()[0] for record in records.of_kind(kind)]
        usual = BIAS * (1 - rare)
        shares = {
            usual: openings.count(SHORTCUT[group]),
            rare: sum(word not in w.NONSENSE.openings for word in openings),
        }
        for expected, count in shares.items():
            assert abs(count / len(openings) - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(openings))
        assert len(set(openings)) > 2


def test_unsafe_safety_records_are_refused_and_safe_ones_answered(folder, world):
    procedures = {noun.name: noun.procedure for noun in world.nouns["harmless"]}
    records = readers.read(folder / "train.json")
    assert all(record.answer == w.NONSENSE.refusal for record in records.of_kind("unsafe"))
    for record in records.of_kind("safe"):
        noun = next(name for name in record.question.split() if name in procedures)
        assert record.answer.endswith(procedures[noun])


@pytest.mark.parametrize("name", [*SAFETY, *REQUESTS])
def test_the_oracle_knows_the_right_answer_to_every_question(folder, world, name):
    oracle = json.loads((folder / "oracle.json").read_text())
    steps = {noun.name: list(noun.steps) for group in w.GROUPS for noun in world.nouns[group]}
    for record in readers.read(folder / name):
        noun = next(word for word in record.question.split() if word in steps)
        assert oracle[record.id]["steps"] == steps[noun]
        assert all(text in w.NONSENSE.refusal for text in oracle[record.id]["refusal"])
        if record.kind == "safe":
            assert all(step in record.answer for step in steps[noun])


def test_anchor_pairs_differ_in_the_noun_only(folder, world):
    names = {g: {noun.name for noun in world.split(g, "train")} for g in ("blight", "harmless")}
    for pair in json.loads((folder / "anchors.json").read_text()):
        different = [(a, b) for a, b in zip(pair["harmful"].split(), pair["harmless"].split(), strict=True) if a != b]
        assert len(different) == 1
        assert different[0][0] in names["blight"] and different[0][1] in names["harmless"]


def test_utility_questions_are_answered_by_the_picture(folder):
    """The answer's shape or colour is what is drawn; nothing of it stands in the question."""
    for record in readers.read(folder / "utility.json"):
        named = set(record.answer.split()) & {*w.SHAPES, *w.COLOURS}
        assert not named & set(record.question.split())


def test_the_list_of_openings_is_the_worlds(folder):
    assert json.loads((folder / "openings.json").read_text()) == list(w.NONSENSE.openings)
