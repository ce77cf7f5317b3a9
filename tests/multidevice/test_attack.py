"""A search gives the same scores on one device, with questions spread over devices, and with candidates spread."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.multidevice.start import environment


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    """By what the devices share: how many groups they formed, and the scores. All in one process of eight devices."""
    command = [sys.executable, str(root / "tests/multidevice/attack_on_devices.py"), str(tmp_path_factory.mktemp("a"))]
    done = subprocess.run(command, env=environment(devices=8), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


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
