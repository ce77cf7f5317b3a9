"""One, two, four and eight devices give the same losses, gradients and weights; a run moves between meshes."""

import numpy as np
import pytest

from tests.multidevice.start import assert_same, assert_same_weights, job, train_on

MESHES = {"npo": [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 2)], "rmu": [(1, 1, 1), (2, 2, 2)]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By objective, what each mesh gave; "sft" is a whole run and the parts of one that moved. All in one process."""
    folder = tmp_path_factory.mktemp("trained")
    jobs = [job(name, *mesh, steps=3) for name, meshes in MESHES.items() for mesh in meshes]
    jobs += [
        job("sft", 1, 1, 1, steps=6),
        job("sft", 1, 8, 1, steps=6, workdir=folder / "moves", stop=3),  # leaves the checkpoint of step 2
        job("sft", 1, 1, 2, steps=6, workdir=folder / "moves", stop=5),  # goes on from 2, leaves that of 4
        job("sft", 1, 1, 1, steps=6, workdir=folder / "moves"),
    ]
    results, _ = train_on(folder, *jobs, devices=8)
    pairs = list(zip(jobs, results, strict=True))
    return {name: [result for one, result in pairs if one["objective"] == name] for name in (*MESHES, "sft")}


@pytest.mark.parametrize("name", MESHES)
def test_two_four_and_eight_devices_equal_one(trained, name):
    one, *others = trained[name]
    assert one["devices"] == 1 and len(set(one["loss"])) == 3
    for shape, other in zip(MESHES[name][1:], others, strict=True):
        assert other["devices"] == [np.prod(shape)]
        assert_same(one, other)


def test_saved_on_eight_restored_on_two_then_on_one(trained):
    whole, *stopped, rest = trained["sft"]
    assert stopped == [None, None]
    assert rest["step"].tolist() == [5, 6] and rest["devices"] == [1]
    np.testing.assert_allclose(rest["loss"], whole["loss"][4:], rtol=2e-5)
    assert_same_weights(whole, rest)
