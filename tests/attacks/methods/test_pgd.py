"""Image perturbations: pictures of eight bits within the bound, whose margin is that of the saved file."""

import copy
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.attacks.reference import margin
from tests.model.tiny import clip_vision
from vlm_mu_jax.attacks.margin import margin as margin_lib
from vlm_mu_jax.attacks.margin import prefix
from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import MarginsFile, SearchRun, SearchTarget
from vlm_mu_jax.attacks.methods import pgd
from vlm_mu_jax.attacks.methods.sight import of_picture, seen
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering import gates
from vlm_mu_jax.steering.hidden_states import batch_states

QUESTION, OPENINGS = "share the steps of the dax on this sign ?", Openings(((5,), (9,)))
TREE = Openings(((5,), (7, 8)))
USE = pgd.PixelOptions(epsilon=6, step=2, steps=6, stop=1e9)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Larger than the model's 8 x 8, and with black and white parts, so that the box matters."""
    values = np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8)
    values[:6], values[6:10] = 0, 255
    path = tmp_path_factory.mktemp("images") / "own.png"
    Image.fromarray(values).save(path)
    return path


@pytest.fixture(scope="module")
def found(model, picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pgd")
    ticks = []

    def progress(steps, label, total):
        ticks.append((total, sum(1 for _ in steps)))
        return ()

    some = [SearchQuestion(QUESTION, picture)]
    (down,) = pgd.search(model, some, SearchTarget(OPENINGS), USE, folder, SearchRun(progress=progress))
    (up,) = pgd.search(model, some, SearchTarget(OPENINGS, goal="over_refuse"), USE, folder / "up")
    assert ticks == [(USE.steps, USE.steps)]
    return down, up


def test_files_stay_in_the_bound_and_in_the_box(model, picture, found):
    base = seen(model.processor.pixels(picture), model.processor.settings)
    assert base.shape == (8, 8, 3) and base.min() == 0 and base.max() == 255
    for one in found:
        for path in (one.image, one.control):
            values = np.asarray(Image.open(path)).astype(int)
            assert values.shape == base.shape and 0 < np.abs(values - base).max() <= USE.epsilon
        assert one.largest == np.abs(np.asarray(Image.open(one.image)).astype(int) - base).max()


def test_margins_are_those_of_the_files(model, picture, found):
    for one in found:
        for path, wanted in ((one.image, one.margin), (one.control, one.random), (picture, one.original)):
            truth = margin(model, QUESTION, None, model.processor.pixels(path), OPENINGS)
            assert abs(truth - wanted) < 1e-4
        assert abs(one.from_file - one.margin) < 1e-4


def test_the_gradient_does_better_than_chance(found):
    down, up = found
    assert down.margin < min(down.original, down.random) and up.margin > max(up.original, up.random)
    assert list(down.curve) == sorted(down.curve, reverse=True) and list(up.curve) == sorted(up.curve)
    assert down.gradients == USE.steps + 3 and down.flops > 0


@pytest.mark.parametrize("number", [None, 1])
def test_one_image_of_a_conversation_is_changed_and_the_others_stay(model, picture, tmp_path, number):
    """The last one by default, wherever it stands."""
    other = tmp_path / "other.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(other)
    first = (Turn("user", (ImagePart("a"), "what is on this sign ?")), Turn("assistant", ("i see a red sign",)))
    context = Context(first, Turn("user", (ImagePart("b"), QUESTION)))
    some = [SearchQuestion(QUESTION, picture if number else other, (other if number else picture,), context)]
    openings, use = OPENINGS if number else TREE, dataclasses.replace(USE, steps=3, image=number)
    (one,) = pgd.search(model, some, SearchTarget(openings), use, tmp_path / "out")

    def truth(changed):
        files = (changed, other) if number else (other, changed)
        images = np.stack([model.processor.pixels(file) for file in files])
        return margin(model, QUESTION, None, images, openings, context=context)

    for path, wanted in ((one.image, one.margin), (one.control, one.random), (picture, one.original)):
        assert abs(truth(path) - wanted) < 1e-4
    assert abs(one.from_file - one.margin) < 1e-4 and list(one.curve) == sorted(one.curve, reverse=True)
    with pytest.raises(InputError, match="--image=3: a question has 2 images"):
        pgd.search(model, some, SearchTarget(OPENINGS), dataclasses.replace(USE, image=3), tmp_path)


@pytest.mark.parametrize("decides", ["layer", "example"])
def test_the_guard_is_inside_the_attacked_program(model, picture, tmp_path, decides):
    cfg, rng = model.config.text, np.random.default_rng(1)
    basis = rng.normal(size=(cfg.L, 1, cfg.D)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=-1, keepdims=True)
    steer = Steer(basis, jnp.full((cfg.L,), 2.0), jnp.zeros((cfg.L, cfg.D)), jnp.zeros((cfg.L,)), gated=True)
    guard, steer_of = steer, lambda pixels: steer
    if decides == "example":
        guard = FirstPass(lambda states: gates.per_example(steer, states, quorum=0.5), text_only=False)

        def steer_of(pixels):
            ids = model.processor.prompt_ids(QUESTION, [pixels])
            return guard.steer_of(batch_states(model, model.processor.pad([ids], [[pixels]], length=96)))

    use = dataclasses.replace(USE, steps=3)
    (one,) = pgd.search(model, [SearchQuestion(QUESTION, picture)], SearchTarget(OPENINGS, steer=guard), use, tmp_path)
    for path, wanted in ((one.image, one.margin), (one.control, one.random)):
        pixels = model.processor.pixels(path)
        assert abs(margin(model, QUESTION, None, pixels, OPENINGS, steer=steer_of(pixels)) - wanted) < 1e-4
        assert abs(margin(model, QUESTION, None, pixels, OPENINGS) - wanted) > 1e-2


def test_what_the_model_sees_is_undone_exactly(model):
    values = np.random.default_rng(1).integers(0, 256, (8, 8, 3))
    pixels = model.processor.pixels(Image.fromarray(values.astype(np.uint8)))
    np.testing.assert_array_equal(seen(pixels, model.processor.settings), values)


def test_projection():
    base = np.array([0, 3, 100, 250, 255])
    moved = pgd.projected(np.array([-9, -9, 120, 270, 240]), base, 8)
    assert moved.tolist() == [0, 0, 108, 255, 247]


def test_it_stops_early_and_a_finished_question_is_not_searched_again(model, picture, tmp_path):
    some, use = [SearchQuestion(QUESTION, picture)], dataclasses.replace(USE, stop=-1e9)
    with MarginsFile(tmp_path / "m.jsonl", {}, pgd.FoundImage) as file:
        first = pgd.search(model, some, SearchTarget(OPENINGS), use, tmp_path / "images", SearchRun(file=file))
    assert len(first[0].curve) == 1
    written = Path(first[0].image).stat().st_mtime_ns
    with MarginsFile(tmp_path / "m.jsonl", {}, pgd.FoundImage) as file:
        assert pgd.search(model, some, SearchTarget(OPENINGS), use, tmp_path / "images", SearchRun(file=file)) == first
        assert Path(first[0].image).stat().st_mtime_ns == written
        Path(first[0].image).unlink()  # without its picture a line is worth nothing
        assert pgd.search(model, some, SearchTarget(OPENINGS), use, tmp_path / "images", SearchRun(file=file)) == first
    assert Path(first[0].image).exists()


def test_models_and_questions_without_an_image_are_refused(model, make_model, tmp_path):
    with pytest.raises(InputError, match="changes images"):
        pgd.search(model, [SearchQuestion(QUESTION)], SearchTarget(OPENINGS), USE, tmp_path)
    tiled = tiled_model(model)
    with pytest.raises(InputError, match="give every question a file"):
        pgd.search(
            tiled, [SearchQuestion(QUESTION, np.zeros((8, 8, 3), np.float32))], SearchTarget(OPENINGS), USE, tmp_path
        )


def tiled_model(model):
    """The same model with a picture cut into its view and up to two tiles."""
    vision = clip_vision(**dataclasses.asdict(model.config.vision.tower), pinpoints=((8, 16), (16, 8)))
    config = dataclasses.replace(model.config, vision=vision)
    processor = copy.copy(model.processor)
    processor.cfg = config
    projector = model.params["projector"] | {"newline_D": jnp.ones(config.text.D) / 8}
    return dataclasses.replace(
        model, config=config, processor=processor, params=model.params | {"projector": projector}
    )


def test_a_picture_that_is_cut_is_attacked_through_the_cutting(model, picture, tmp_path):
    tiled = tiled_model(model)
    sight = of_picture(Image.open(picture).convert("RGB"), tiled.processor)
    got = np.asarray(sight.shown(sight.base_HWC.astype(np.float32)).pixels_BMHWC)[0]
    off = np.abs(got - tiled.processor.pixels(picture).pixels_MHWC) * tiled.processor.settings.std
    assert off.max() / tiled.processor.settings.rescale < 1.1  # grey levels: Pillow's weights have fewer digits
    (one,) = pgd.search(tiled, [SearchQuestion(QUESTION, picture)], SearchTarget(OPENINGS), USE, tmp_path)
    values = np.asarray(Image.open(one.image)).astype(int)
    assert values.shape == (20, 12, 3) and 0 < np.abs(values - sight.base_HWC).max() == one.largest <= USE.epsilon
    assert max(one.margin, one.from_file) < min(one.original, one.random)
    again = pgd.search(
        tiled, [SearchQuestion(QUESTION, Path(one.image))], SearchTarget(OPENINGS), USE, tmp_path / "again"
    )
    assert abs(again[0].original - one.from_file) < 1e-4  # its file is that picture


def test_a_picture_among_others_that_are_cut(model, picture, tmp_path):
    """The others have another number of tokens, and stand before it and behind it."""
    tiled, use = tiled_model(model), dataclasses.replace(USE, steps=2, image=2)
    wide = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (8, 20, 3), dtype=np.uint8)).save(wide)
    (one,) = pgd.search(
        tiled, [SearchQuestion(QUESTION, wide, (picture, wide))], SearchTarget(OPENINGS), use, tmp_path / "out"
    )
    files = [wide, one.image, wide]
    prompt = prefix.tokenise(tiled.processor, QUESTION, files, [Placed(QUESTION)])
    block = next(prefix.blocks(prompt, np.array([0]), None, 1))
    image = prefix.image_features(tiled.params, [tiled.processor.pixels(file) for file in files], tiled.config)
    rows = margin_lib.CandidateRows(None, 0, block.tokens_CT, block.lengths_C, image)
    truth, _ = margin_lib.score(tiled.params, rows, cfg=tiled.config, nodes=SearchTarget(OPENINGS).nodes)
    assert abs(float(truth[0]) - one.from_file) < 1e-4
