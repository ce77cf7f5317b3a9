"""A search gives the same scores on one device, with questions spread over devices, and with candidates spread."""

import json

import numpy as np
import pytest

from tests.multidevice.start import run_together


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    """By what the devices share: how many groups they formed, and the scores. All in one process of eight devices."""
    script = root / "tests/multidevice/attack_on_devices.py"
    (stdout,) = run_together(script, tmp_path_factory.mktemp("a"), processes=1, devices=8)
    return json.loads(stdout.splitlines()[-1])


@pytest.mark.parametrize(("shared", "groups"), [("questions", 8), ("candidates", 1), ("both", 2)])
def test_eight_devices_equal_one(found, shared, groups):
    one, many = found["nothing"], found[shared]
    assert (one["groups"], many["groups"]) == (0, groups)
    for position, margins in one["words"]["margins"].items():
        np.testing.assert_allclose(many["words"]["margins"][position], margins, atol=1e-4)
        assert many["words"]["best"][position] == one["words"]["best"][position]


def test_questions_after_the_first_compile_nothing(found):
    assert found["candidates"]["words"]["programs"] == found["nothing"]["words"]["programs"] > 0


def test_suffixes_and_images_on_eight_devices_equal_those_on_one(found):
    """Two groups of four: each searches a question, and spreads a suffix's candidates."""
    one, many = found["nothing"]["others"], found["both"]["others"]
    assert many["texts"] == one["texts"]
    for method, margins in one["margins"].items():
        np.testing.assert_allclose(many["margins"][method], margins, atol=1e-3)
