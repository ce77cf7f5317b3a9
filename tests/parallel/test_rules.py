"""Rules turn declarations into partitions, or say which parameter and rule do not fit."""

import re
from types import SimpleNamespace

import pytest
from jax.sharding import PartitionSpec

from tests.model.tiny import clip_vision
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.parallel.rules import RULES, partition, shardings

MESH = SimpleNamespace(shape={"data": 1, "fsdp": 4, "tensor": 2})


def test_a_parameter_is_split_by_its_axes():
    spec = partition("w", ("layers", "embed", "heads", "head"), (3, 16, 6, 8), MESH)
    assert spec == PartitionSpec(None, "fsdp", "tensor", None)


def test_mesh_axes_of_one_device_split_nothing():
    spec = partition("w", ("embed", "mlp"), (15, 7), SimpleNamespace(shape={"data": 8, "fsdp": 1, "tensor": 1}))
    assert spec == PartitionSpec(None, None)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("embed", "mlp"), (16, 7), "decoder/w: rule mlp -> tensor cannot split size 7 over 2 devices"),
        (
            ("heads", "mlp"),
            (6, 8),
            "decoder/w: rules heads -> tensor and mlp -> tensor put two dimensions on one mesh axis",
        ),
        (("embd",), (8,), "decoder/w: no sharding rule for axis 'embd'"),
    ],
)
def test_what_does_not_fit_names_parameter_and_rule(axes, shape, message):
    with pytest.raises(InputError, match=re.escape(message)):
        partition("decoder/w", axes, shape, MESH)


def test_every_parameter_of_a_model_has_rules():
    text = TextConfig(V=32, D=16, L=2, N=4, K=2, H=8, F=24, attention_bias=True, mlp_bias=True)
    vision = clip_vision(image_size=8, patch_size=4, D=16, L=1, N=2, F=16)
    specs = param_specs(ModelConfig(text, vision, image_token_id=31))
    assert {axis for spec in flatten(specs).values() for axis in spec.axes if axis} <= RULES.keys()
    for path, spec in flatten(specs).items():
        partition(path, spec.axes, spec.shape, MESH)
    assert flatten(shardings(specs, make_mesh())).keys() == flatten(specs).keys()


def test_mesh_sizes_that_do_not_use_all_devices_are_refused():
    assert make_mesh(-1, 1, 1).shape["data"] >= 1
    for sizes in ((3, 5, 7), (-1, -1, 1), (0, 1, 1), (-1, 7, 11)):
        with pytest.raises(InputError, match="mesh"):
            make_mesh(*sizes)
