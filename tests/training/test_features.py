"""The tower's output computed once: same losses and gradients, found again only for the same weights and images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.training import features
from vlm_mu_jax.training.step import loss_and_gradients
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection, dtypes, rests, split


@pytest.fixture(scope="module")
def weights():
    return tiny.params(tiny.LLAVA)


def streams():
    return {"train": tiny.stream(count=5, batch=4, cfg=tiny.LLAVA)}


def prepared(weights, given, cache=None):
    """The streams with features, and how often the tower ran."""
    ran = []

    def progress(items, label, total=None):
        ran.append(total)
        return items

    made = features.with_features(weights, given, tiny.LLAVA, single_device_mesh(), cache=cache, progress=progress)
    return made, sum(ran)


def test_losses_and_gradients_are_those_of_pixels(weights):
    given = streams()
    made, _ = prepared(weights, given)
    assert made["train"][0].batch.pixels_BMHWC is None and made["train"][0].batch.vision_BMPE is not None
    objective = make_objective("sft")
    trainable, frozen = split(weights, FROZEN_VISION, param_specs(tiny.LLAVA), jax.random.key(0), False)

    @jax.jit
    def gradient(rows):
        return loss_and_gradients(
            trainable,
            frozen,
            rows,
            {},
            cfg=tiny.LLAVA,
            objective=objective,
            selection=FROZEN_VISION,
            dtypes=dtypes(weights),
        )

    (want, metrics), (got, same) = (
        gradient({"train": jax.tree.map(lambda x: jnp.asarray(x)[None], s["train"][1])}) for s in (given, made)
    )
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)
    assert any(path.startswith("weights/projector") for path in flatten(got))


def test_the_file_is_found_again_for_the_same_weights_and_images_only(weights, tmp_path):
    first, ran = prepared(weights, streams(), tmp_path)
    assert ran == 1
    again, ran = prepared(weights, streams(), tmp_path)
    assert ran == 0
    np.testing.assert_array_equal(again["train"][0].batch.vision_BMPE, first["train"][0].batch.vision_BMPE)

    tower = {**weights["vision"], "patch_CD": 2 * weights["vision"]["patch_CD"]}
    other, ran = prepared({**weights, "vision": tower}, streams(), tmp_path)
    assert ran == 1
    assert np.abs(other["train"][0].batch.vision_BMPE - first["train"][0].batch.vision_BMPE).max() > 1e-3

    decoder = jax.tree.map(lambda x: x + 1, weights["decoder"])
    assert prepared({**weights, "decoder": decoder}, streams(), tmp_path)[1] == 0  # the tower does not read it

    rows = list(tiny.rows(5, cfg=tiny.LLAVA))
    rows[2] = TrainRow(rows[2].id, rows[2].ids, rows[2].mask, (rows[2].images[0] + 0.5,))
    assert prepared(weights, {"train": Stream(rows, 4, 0)}, tmp_path)[1] == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_cut_short_is_made_again(weights, tmp_path):
    first, _ = prepared(weights, streams(), tmp_path)
    want = np.array(first["train"][0].batch.vision_BMPE)
    del first
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-4])
    made, ran = prepared(weights, streams(), tmp_path)
    assert ran == 1
    np.testing.assert_array_equal(made["train"][0].batch.vision_BMPE, want)


def test_an_image_of_several_rows_is_encoded_once(weights):
    asked = []

    def load(key):
        asked.append(key)
        return np.full((8, 8, 3), float(key), np.float32)

    rows = [TrainRow(f"r{i}", (1, *[tiny.IMAGE] * 4, 5, 6), (False,) * 6 + (True,), (str(i % 2),)) for i in range(6)]
    given = {name: Stream(rows, 2, 0, name=name, load_image=load) for name in ("forget", "retain")}
    made, ran = prepared(weights, given)
    before = len(asked)
    assert ran == 1 and made["forget"][0].batch.vision_BMPE.shape[:3] == (2, 1, 4)
    assert len(asked) == before  # no image is read for a batch


def test_too_much_is_left_to_the_tower_in_every_step(weights, monkeypatch):
    monkeypatch.setitem(features.MOST_BYTES, "memory", 10)
    given = streams()
    made, ran = prepared(weights, given)
    assert made == given and not ran and made["train"][0].batch.pixels_BMHWC is not None


@pytest.mark.parametrize(
    ("selection", "frozen"),
    [
        (FROZEN_VISION, True),
        (Selection(), False),
        (Selection.of(select=(), slices={"vision/layers/w1_LDF": [0]}), False),
        (Selection.of(select=(), lora_rank=2), True),
    ],
)
def test_only_a_tower_that_does_not_train_is_frozen(selection, frozen):
    assert rests("vision/", selection, param_specs(tiny.LLAVA)) is frozen
