"""One, two, four and eight devices give the same losses, gradients and weights; a run moves between meshes."""

import numpy as np
import pytest

from tests.multidevice.start import assert_same, assert_same_weights, train_on

MESHES = [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize(("name", "meshes"), [("npo", MESHES), ("rmu", [MESHES[0], MESHES[-1]])])
def test_two_four_and_eight_devices_equal_one(tmp_path, name, meshes):
    (one, *others), _ = train_on(tmp_path, name, *meshes, steps=3)
    assert one["devices"] == 1 and len(set(one["loss"])) == 3
    for shape, other in zip(meshes[1:], others, strict=True):
        assert other["devices"] == [np.prod(shape)]
        assert_same(one, other)


def test_saved_on_eight_restored_on_two_then_on_one(tmp_path):
    (whole,), _ = train_on(tmp_path, "sft", (1, 1, 1), steps=6)
    work = tmp_path / "work"
    assert train_on(tmp_path, "sft", (1, 8, 1), steps=6, workdir=work, stop=3) == ([], [])  # checkpoint of step 2
    assert train_on(tmp_path, "sft", (1, 1, 2), steps=6, workdir=work, stop=5) == ([], [])  # goes on from 2, saves 4
    (rest,), _ = train_on(tmp_path, "sft", (1, 1, 1), steps=6, workdir=work)
    assert rest["step"].tolist() == [5, 6] and rest["devices"] == [1]
    np.testing.assert_allclose(rest["loss"], whole["loss"][4:], rtol=2e-5)
    assert_same_weights(whole, rest)
