"""Commands give the same answers on 1, 2, 4 and 8 devices, with rows and weights spread over them."""

import json

import numpy as np
import pytest

from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401 (fixtures)
from tests.multidevice.start import run_together

ONE = "1,1,1"
MESHES = ["2,1,1", "1,2,2", "2,2,2"]


@pytest.fixture(scope="module")
def said(root, checkpoint, data_dir):  # noqa: F811
    """What the commands gave, by mesh. All in one process of eight devices."""
    script = root / "tests/multidevice/commands_on_devices.py"
    (stdout,) = run_together(script, checkpoint, data_dir, ONE, *MESHES, processes=1, devices=8)
    return json.loads(stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_answers_and_directions_do_not_depend_on_the_mesh(said, mesh):
    one, many = said[ONE], said[mesh]
    for name in ("answers", "guarded", "judged", "streamed"):
        assert many[name] == one[name], name
    assert many["served"]["tokens"] == one["served"]["tokens"]
    for name, close in (("directions", 1e-5), ("first", 1e-4), ("nll", 1e-4), ("scores", 1e-4)):
        np.testing.assert_allclose(many[name], one[name], atol=close, err_msg=name)
    assert len({text for some in one["answers"].values() for text in some}) > 5


def test_guards_that_are_applied_and_diagnosed_defences_holds_and_saliency_do_not_depend_on_the_mesh(said):
    one, many = said[ONE], said["1,2,2"]
    assert many["applied"] == one["applied"] and len(set(one["applied"])) > 1
    assert many["defended"] == one["defended"]
    assert many["held"] == one["held"] and one["held"].count("searched words") == one["held"].count("pruned") == 1
    for name in ("diagnosed", "salient"):
        assert len(one[name]) > 5
        np.testing.assert_allclose(many[name], one[name], atol=1e-4, err_msg=name)
    assert many["rounded"]  # weights in few bits stay where they were


@pytest.mark.parametrize("mesh", MESHES)
def test_batches_after_the_first_compile_nothing(said, mesh):
    assert said[mesh]["programs"] == said[ONE]["programs"] == 3
    assert said[mesh]["served"]["compiled"][-1] == 0


@pytest.mark.parametrize("mesh", [ONE, *MESHES])
def test_a_device_holds_its_share_of_the_weights_and_of_the_vocabulary_product(said, mesh):
    decode = said[mesh]["decode"]
    assert decode["weights"] <= decode["arguments"] <= decode["weights"] + decode["inputs"]
    assert decode["arguments"] + decode["temporary"] <= decode["estimate"]
    if mesh == "1,2,2":
        assert decode["weights"] < 0.3 * said[ONE]["decode"]["weights"]
    assert not [shape for shape in decode["gathered"] if shape[-1] == decode["vocabulary"]]  # logits: [rows, V]


@pytest.mark.parametrize("program", ["attack", "guard"])
def test_searches_and_guarded_generation_hold_a_share_of_the_weights(said, program):
    one, many = (said[mesh]["bytes"][program] for mesh in (ONE, "1,2,2"))
    assert many["weights"] < 0.3 * one["weights"]
    assert one["arguments"] > one["weights"]
    assert (
        one["arguments"] - many["arguments"] >= one["weights"] - many["weights"]
    )  # what is no weight shrinks or stays


def test_the_placement_is_said_in_one_line(said):
    assert "4 of 8 devices, data 1 x fsdp 2 x tensor 2; about" in said["1,2,2"]["line"]
