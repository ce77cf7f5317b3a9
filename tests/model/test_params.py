"""One declaration per parameter: names, shapes, drawing, and the check of somebody else's tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, TEXT_ONLY, random_params
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import ParamSpec, abstract_params, check_params, flatten, init_params, unflatten
from vlm_mu_jax.model.vlm import param_specs


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


def test_a_leaf_is_drawn_independently_of_all_others():
    """Adding or dropping parameters (a vision tower, biases) leaves every other one as it was."""
    leaf = ParamSpec((4, 3), (None, None))
    few = {"decoder": {"b": leaf}}
    many = {"a": leaf, "decoder": {"a": leaf, "b": leaf, "c": leaf}, "vision": {"b": leaf}}
    drawn = [init_params(specs, jax.random.key(3))["decoder"]["b"] for specs in (few, many)]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (300, 1000)])
def test_draws_are_those_of_jax_random_normal(shape):
    """Small leaves are cut from one longer draw; recorded results depend on the values."""
    key = jax.random.key(5)
    for byte in b"w":
        key = jax.random.fold_in(key, byte)
    for dtype in (jnp.float32, jnp.bfloat16):
        drawn = init_params({"w": ParamSpec(shape, (None,) * len(shape), 0.3)}, jax.random.key(5), dtype)["w"]
        wanted = (0.3 * jax.random.normal(key, shape)).astype(dtype)
        np.testing.assert_array_max_ulp(np.asarray(drawn, np.float32), np.asarray(wanted, np.float32), maxulp=2)
        assert drawn.dtype == dtype


def test_leaves_differ_from_each_other_and_between_keys():
    specs = {"ab": ParamSpec((4,), (None,)), "ba": ParamSpec((4,), (None,)), "c": {"ab": ParamSpec((4,), (None,))}}
    drawn = [leaf for seed in (0, 1) for leaf in flatten(init_params(specs, jax.random.key(seed))).values()]
    assert len({leaf.tobytes() for leaf in map(np.asarray, drawn)}) == 6


def test_initialisers_do_what_they_say():
    specs = {
        "z": ParamSpec((5,), (None,), "zeros"),
        "o": ParamSpec((5,), (None,), "ones"),
        "n": ParamSpec((20000,), (None,), 0.5),
    }
    drawn = init_params(specs, jax.random.key(0), jnp.float32)
    assert not drawn["z"].any() and (drawn["o"] == 1).all()
    # the mean of n draws has standard deviation 0.5 / sqrt(n) = 0.0035, their spread 0.5 / sqrt(2 n) = 0.0025: 5 sigma
    assert abs(float(drawn["n"].mean())) < 0.018 and abs(float(drawn["n"].std()) - 0.5) < 0.0125


@pytest.mark.parametrize("cfg", [LLAVA, TEXT_ONLY, LLAVA.with_text(tie_embeddings=True, attention_bias=True)])
def test_shapes_are_known_without_drawing_and_names_spell_them(cfg):
    abstract, drawn = (flatten(t) for t in (abstract_params(param_specs(cfg), jnp.bfloat16), random_params(cfg)))
    assert {p: s.shape for p, s in abstract.items()} == {p: a.shape for p, a in drawn.items()}
    assert {s.dtype for s in abstract.values()} == {jnp.dtype("bfloat16")}
    for path, leaf in drawn.items():
        assert leaf.ndim == len(path.rpartition("_")[2]), path


def test_tying_drops_the_head_and_only_the_head():
    tied, untied = (flatten(param_specs(LLAVA.with_text(tie_embeddings=t))).keys() for t in (True, False))
    assert untied - tied == {"decoder/head_DV"} and not tied - untied


def test_every_problem_of_a_foreign_tree_is_listed_at_once():
    specs = param_specs(LLAVA)
    check_params(random_params(LLAVA), specs, "weights")
    flat = flatten(random_params(LLAVA))
    del flat["decoder/norm_D"], flat["projector/b1_D"]
    flat |= {"decoder/extra": jnp.zeros(3), "vision/class_D": jnp.zeros((5, 5))}
    with pytest.raises(InputError) as error:
        check_params(unflatten(flat), specs, "weights")
    for part in ("weights", "decoder/norm_D is missing", "projector/b1_D is missing", "decoder/extra is unexpected"):
        assert part in str(error.value)
    assert "vision/class_D has shape (5, 5), the config wants (12,)" in str(error.value)
