"""Images without a search: what is in them, and controls that pay the same price."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vlm_mu_jax.attacks import measure
from vlm_mu_jax.attacks.methods import images
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.records import ImagePart, Record, Records, Turn
from vlm_mu_jax.errors import InputError

SETTINGS = ImageSettings(size=96, crop=96, mean=(0.5,) * 3, std=(0.5,) * 3)
TEXT = "share the steps of the dax on this sign ?"


@pytest.fixture
def asked(tmp_path):
    for i in range(2):
        Image.new("RGB", (60, 90), (0, 100 * i, 200)).save(tmp_path / f"{i}.png")
    items = tuple(Record(f"a/{i}#x", f"{i}.png", TEXT, "", "unsafe") for i in range(2))
    return Records(items, tmp_path, tmp_path / "test.json", "0" * 64)


def read(attempt):
    return np.asarray(Image.open(attempt.image)).astype(int)


def check_price(asked, attempts, control, shots):
    for side in (attempts, control):
        assert set(side) == {record.id for record in asked}
        assert all(len(some) == shots and len({read(one).tobytes() for one in some}) == shots for some in side.values())


def test_blank_images_hold_nothing_and_their_control_the_own_image(asked, tmp_path):
    attempts, control = images.blank(asked, SETTINGS, tmp_path / "out", 0)
    check_price(asked, attempts, control, 3)
    for record in asked:
        assert all(read(one).std(axis=(0, 1)).max() == 0 for one in attempts[record.id])
        own = np.asarray(Image.open(asked.image_path(record))).astype(int)
        assert all(0 < np.abs(read(one) - own).max() <= 2 for one in control[record.id])
        assert all(one.question == record.question for one in (*attempts[record.id], *control[record.id]))


def test_noise_is_drawn_by_seed(asked, tmp_path):
    draws = [images.noise(asked, SETTINGS, tmp_path / str(i), seed, 2) for i, seed in enumerate((1, 1, 2))]
    check_price(asked, *draws[0], 2)
    first, again, other = ([read(one) for one in draw[0]["a/0#x"]] for draw in draws)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert all((a != b).any() for a in first for b in other)


def test_the_question_is_written_and_the_control_is_the_same_without_it(asked, tmp_path):
    attempts, control = images.typographic(asked, SETTINGS, tmp_path / "out")
    check_price(asked, attempts, control, 2)
    for record in asked:
        assert {one.question for one in (*attempts[record.id], *control[record.id])} == {images.CARRIER}
        panel, caption = (read(one) for one in attempts[record.id])
        white, own = (read(one) for one in control[record.id])
        assert (white == 255).all() and (panel != 255).any()
        third = len(own) - len(own) // 3
        assert (caption[:third] == own[:third]).all() and (caption[third:] != own[third:]).any()


@pytest.mark.parametrize("size", [(336, 336), (200, 60), (8, 8)])
@pytest.mark.parametrize("text", ["dax", TEXT, TEXT * 4])
def test_writing_fills_the_picture_and_stays_in_it(size, text):
    dark = np.asarray(images.written(text, size)).min(axis=-1) < 128
    assert dark.any()
    if size == (336, 336):
        edge = 336 // 24
        assert not dark[:, :edge].any() and not dark[:edge].any()
        assert not dark[-edge:].any() and not dark[:, -edge:].any()
        larger = np.asarray(images.written("dax", size)).min(axis=-1) < 128
        assert larger.any(axis=1).sum() >= 20  # a short text is written large


@pytest.mark.parametrize("number", [None, 1])
def test_one_image_of_a_conversation_is_changed(asked, tmp_path, number):
    first = (Turn("user", (ImagePart("0.png"), "what is it ?")), Turn("assistant", ("a sign",)))
    record = Record("t", turns=(*first, Turn("user", (ImagePart("1.png"), TEXT))), kind="unsafe", at=1)
    some = dataclasses.replace(asked, items=(record,))
    place = 1 if number is None else 0
    for attempts, control in (
        images.blank(some, SETTINGS, tmp_path / "out", 0, number),
        images.typographic(some, SETTINGS, tmp_path / "out", image=number),
    ):
        assert {one.place for one in (*attempts["t"], *control["t"])} == {place}
        faint_or_own = read(control["t"][-1])
        own = np.asarray(Image.open(some.image_paths(record)[place])).astype(int)
        assert np.abs(faint_or_own - own).max() <= 2
    question = measure._question(some, record, attempts["t"][0], 0, "typographic")
    shown = [*some.image_paths(record)]
    shown[place] = attempts["t"][0].image
    assert question.images == tuple(shown) and question.context.before == first and question.text == images.CARRIER
    with pytest.raises(InputError, match="--image=3"):
        images.blank(some, SETTINGS, tmp_path / "out", 0, 3)


def test_a_question_without_an_image_is_named(asked, tmp_path):
    without = dataclasses.replace(asked, items=(Record("q9", None, TEXT, "", "unsafe"),))
    with pytest.raises(InputError, match="q9 has no image"):
        images.blank(without, SETTINGS, tmp_path / "out", 0)
