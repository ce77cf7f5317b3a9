"""Several processes on one machine train as one does: same losses and gradients, own images only, one checkpoint."""

import numpy as np
import pytest

from tests.multidevice.start import assert_same, assert_same_weights, job, train_on
from tests.training import tiny

ORDER = [0, 2, 3, 1]  # devices 0 and 1 are process 0's: its rows are not next to each other, as on a TPU's torus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def pair(folder):
    """What two processes with two devices each give, in one start; the second training is stopped."""
    work = folder / "work"
    jobs = (
        job("npo", 2, 2, 1, steps=3, accumulate=2, order=ORDER),
        job("rmu", 1, 2, 1, steps=4, order=ORDER, workdir=work, stop=3),  # on devices 0 and 2: one of each process
    )
    return train_on(folder, *jobs, processes=2, devices=2)


@pytest.fixture(scope="module")
def alone(pair, folder):
    """What one process on one device gives, in one start; "rest" goes on where the two processes were stopped."""
    jobs = {
        "accumulated": job("npo", 1, 1, 1, steps=3, accumulate=2),
        "npo": job("npo", 1, 1, 1, steps=2),
        "rmu": job("rmu", 1, 1, 1, steps=4),
        "rest": job("rmu", 1, 1, 1, steps=4, workdir=folder / "work"),
    }
    results, _ = train_on(folder, *jobs.values())
    return dict(zip(jobs, results, strict=True))


def test_two_processes_equal_one_and_each_opens_its_own_images_alone(alone, pair):
    (two, _), opened = pair
    assert two["devices"] == [4]
    assert_same(alone["accumulated"], two)
    for process in range(2):
        assert set(opened[process][0]) == own_images(process, steps=3)
    assert set(opened[0][0]) != set(opened[1][0])


def own_images(process, steps):
    """What process 0 or 1 must open: its rows of every micro-batch of 4, and of the one block of 12 rows, three on each
    device, in which the references of all 10 rows are taken."""
    mine = [position for position, device in enumerate(ORDER) if device // 2 == process]
    wanted = set()
    for i, name in enumerate(("forget", "retain")):
        stream = tiny.stream(10, 8, i, name, tiny.LLAVA)
        for k in range(steps):
            wanted |= {f"{name}/row{row}" for row in stream.indices(k).reshape(2, 4)[:, mine].ravel()}
        if name == "forget":
            wanted |= {f"{name}/row{row}" for row in range(10) if row // 3 in mine}
    return wanted


def test_a_checkpoint_of_two_processes_goes_on_in_one(alone, pair):
    (_, stopped), _ = pair
    whole, rest = alone["rmu"], alone["rest"]
    assert stopped is None
    assert rest["step"].tolist() == [3, 4]
    np.testing.assert_allclose(rest["loss"], whole["loss"][2:], rtol=2e-5)
    assert_same_weights(whole, rest)


@pytest.mark.slow
def test_four_processes_equal_one(alone, tmp_path):
    (four,), _ = train_on(tmp_path, job("npo", 1, 2, 2, steps=2), processes=4)  # weights span the processes
    assert four["devices"] == [4]
    assert_same(alone["npo"], four)
