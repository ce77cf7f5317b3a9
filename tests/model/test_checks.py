"""A wrong batch is one line that names the argument, at `forward` and at `generate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import IMAGE, LLAVA, TEXT_ONLY, VISION, pad, pixels, random_params, text_batch
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.generate import generate, stream
from vlm_mu_jax.model.vlm import Batch, forward

PARAMS = random_params(LLAVA)
ROWS = [[1, *[IMAGE] * VISION.P, 2], [3, 4]]
GOOD = pad(ROWS, [[pixels(np.random.default_rng(0))], []])

WRONG = {
    "a row without a batch axis": (lambda b: b.replace(tokens_BT=b.tokens_BT[0]), "tokens_BT has shape [6]"),
    "tokens that are no ids": (lambda b: b.replace(tokens_BT=b.tokens_BT * 1.0), "tokens_BT has dtype float32"),
    "lengths of other rows": (lambda b: b.replace(lengths_B=b.lengths_B[:1]), "lengths_B has shape [1]"),
    "lengths that are no counts": (lambda b: b.replace(lengths_B=b.lengths_B * 1.0), "lengths_B has dtype float32"),
    "lengths beyond the row": (lambda b: b.replace(lengths_B=b.lengths_B + 1), "lengths_B holds 7"),
    "a negative length": (lambda b: b.replace(lengths_B=b.lengths_B - 3), "lengths_B holds -1"),
    "pixels of one image": (lambda b: b.replace(pixels_BMHWC=b.pixels_BMHWC[0]), "pixels_BMHWC has shape [1, 8, 8, 3]"),
    "a crop that is not the tower's": (
        lambda b: b.replace(pixels_BMHWC=jnp.zeros((2, 1, 12, 12, 3))),
        "pixels_BMHWC has shape [2, 1, 12, 12, 3]; it must be [B, M, 8, 8, 3]",
    ),
    "bytes for pixels": (
        lambda b: b.replace(pixels_BMHWC=b.pixels_BMHWC.astype(jnp.uint8)),
        "pixels_BMHWC has dtype uint8",
    ),
    "states of another tower": (
        lambda b: b.replace(pixels_BMHWC=None, vision_BMPE=jnp.zeros((2, 1, 5, VISION.tower.D))),
        "vision_BMPE has shape [2, 1, 5, 12]",
    ),
    "features of another width": (
        lambda b: b.replace(pixels_BMHWC=None, features_BQD=jnp.zeros((2, 4, 5))),
        "features_BQD has shape [2, 4, 5]",
    ),
    "placeholders without an image": (
        lambda b: b.replace(pixels_BMHWC=None),
        "tokens_BT: row 0 has 4 image placeholders, but pixels_BMHWC, vision_BMPE and features_BQD are all None",
    ),
    "more placeholders than image tokens": (
        lambda b: b.replace(tokens_BT=b.tokens_BT.at[0, 5].set(IMAGE)),
        "tokens_BT: row 0 has 5 image placeholders, but its images give 4",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_batch_is_one_line_that_names_the_argument(case):
    change, message = WRONG[case]
    batch = change(GOOD)
    for run in (
        lambda: forward(PARAMS, batch, LLAVA, upto=0),
        lambda: generate(PARAMS, batch, LLAVA, max_new_tokens=1),
        lambda: next(stream(PARAMS, batch, LLAVA, max_new_tokens=1)),
    ):
        with pytest.raises(InputError) as error:
            run()
        assert f"batch.{message}" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", [case for case in WRONG if "has shape" in WRONG[case][1]])
def test_shapes_are_checked_while_a_program_is_traced(case):
    change, message = WRONG[case]
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda p, b: forward(p, b, LLAVA), PARAMS, change(GOOD))
    assert message in str(error.value)


def test_pixels_for_a_model_without_a_tower():
    batch = text_batch().replace(pixels_BMHWC=GOOD.pixels_BMHWC)
    with pytest.raises(InputError, match="batch.pixels_BMHWC is given, but the model has no vision tower"):
        forward(PARAMS, batch, TEXT_ONLY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds_B": jnp.zeros(3, jnp.int32)}, r"seeds_B has shape \[3\]"),
        ({"seeds_B": jnp.zeros(2)}, "seeds_B has dtype float32"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prefix": text_batch(B=3)}, "prefix has 3 rows; it must be a divisor of the 2 rows"),
        ({"prefix": Batch(jnp.ones(3, jnp.int32), jnp.ones(1, jnp.int32))}, r"prefix.tokens_BT has shape \[3\]"),
    ],
)
def test_what_generation_is_asked_besides(options, message):
    with pytest.raises(InputError, match=message):
        generate(PARAMS, text_batch(), TEXT_ONLY, **{"max_new_tokens": 2, **options})


def test_a_good_batch_passes_as_numpy_and_as_jax_arrays():
    for batch in (GOOD, jax.tree.map(np.asarray, GOOD)):
        assert forward(PARAMS, batch, LLAVA, upto=0).hidden_BTD.shape == (2, 6, LLAVA.text.D)
