"""Hashes of weights and guards: equal for equal content, different for everything that is different."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.parallel.rules import shardings
from vlm_mu_jax.storage.identity import folder_hash, weights_hash

TREE = {"a": {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones(4, np.float32)}, "b": np.zeros(2)}


def test_the_order_of_the_tree_does_not_matter():
    turned = {"b": TREE["b"], "a": {"y": TREE["a"]["y"], "x": TREE["a"]["x"]}}
    assert weights_hash(turned) == weights_hash(TREE)


def test_numpy_and_jax_and_any_strides_are_the_same_weights():
    as_jax = {"a": {"x": jnp.asarray(TREE["a"]["x"]), "y": jnp.asarray(TREE["a"]["y"])}, "b": TREE["b"]}
    strided = {"a": {**TREE["a"], "x": np.asfortranarray(TREE["a"]["x"])}, "b": TREE["b"]}
    assert weights_hash(as_jax) == weights_hash(strided) == weights_hash(TREE)


@pytest.mark.parametrize(
    "other",
    [
        {"a": {"x": TREE["a"]["x"].reshape(3, 2), "y": TREE["a"]["y"]}, "b": TREE["b"]},
        {"a": {"x": TREE["a"]["x"].view(np.int32), "y": TREE["a"]["y"]}, "b": TREE["b"]},
        {"a": {"x": TREE["a"]["x"], "z": TREE["a"]["y"]}, "b": TREE["b"]},
        {"c": {"x": TREE["a"]["x"], "y": TREE["a"]["y"]}, "b": TREE["b"]},
        {"a": {"x": TREE["a"]["x"] + np.eye(2, 3, dtype=np.float32) * 1e-7, "y": TREE["a"]["y"]}, "b": TREE["b"]},
        {"a": {"x": TREE["a"]["x"], "y": TREE["a"]["y"]}, "b": -TREE["b"]},
        {"a": {"x": TREE["a"]["x"], "y": TREE["a"]["y"]}},
        {"a": {"x": TREE["a"]["x"], "y": TREE["a"]["y"]}, "b": TREE["b"], "c": np.zeros(0)},
    ],
    ids=["shape", "dtype", "name", "room", "value", "sign of zero", "one less", "an empty one more"],
)
def test_every_difference_is_another_hash(other):
    assert weights_hash(other) != weights_hash(TREE)


def test_a_mesh_does_not_matter():
    import jax

    from tests.storage.test_model_folder import HF
    from vlm_mu_jax.model.families import from_hf
    from vlm_mu_jax.model.params import init_params
    from vlm_mu_jax.model.vlm import param_specs

    specs = param_specs(from_hf(HF))
    params = init_params(specs, jax.random.key(0))
    assert weights_hash(jax.device_put(params, shardings(specs, make_mesh()))) == weights_hash(params)


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    for folder, names in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(f"content of {name}")
    (tmp_path / "two" / "subfolder").mkdir()
    known = folder_hash(tmp_path / "one")
    assert folder_hash(tmp_path / "two") == known
    (tmp_path / "two" / "a").write_text("other")
    assert folder_hash(tmp_path / "two") != known
