"""The campaign over devices sees what it is for; its long form is a command."""

import numpy as np
import pytest

from tests.campaigns.devices import SAVED, STEPS, faults

WEIGHTS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
WHOLE = {
    "step": np.arange(1, STEPS + 1),
    "loss": np.array([4.0, 3.0, 2.5, 2.25]),
    "weights/decoder": WEIGHTS,
    "weights/norm": np.ones(4, np.float32),
    "weights/bk": np.full(4, 2e-16, np.float32),
    "tokens": np.arange(64).reshape(8, 8),
}
GONE_ON = {**WHOLE, "step": WHOLE["step"][SAVED:], "loss": WHOLE["loss"][SAVED:]}
SHARDS = WEIGHTS.reshape(4, 2, 4)
PLANTED = {
    "two shards changed places": ({"weights/decoder": SHARDS[[1, 0, 2, 3]].reshape(8, 4)}, "weights differ"),
    "a shard is missing": ({"weights/decoder": np.concatenate([SHARDS[:3], 0 * SHARDS[3:]]).reshape(8, 4)}, "weights"),
    "a weight is not a number": ({"weights/norm": np.array([1, np.nan, 1, 1], np.float32)}, "weights differ by inf"),
    "the batches of two steps changed places": ({"loss": GONE_ON["loss"][::-1]}, "loss differs"),
    "a step was made twice": ({"step": np.array([2, 3, 4])}, "went on with steps"),
    "another token": ({"tokens": WHOLE["tokens"] ^ (WHOLE["tokens"] == 9)}, "1 greedy tokens differ"),
}


def test_rounding_is_no_fault():
    assert faults(GONE_ON, WHOLE) == []
    assert faults({**GONE_ON, "weights/decoder": WEIGHTS * np.float32(1 + 1e-6)}, WHOLE) == []
    assert faults({**GONE_ON, "weights/bk": -WHOLE["weights/bk"]}, WHOLE) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_seen(name):
    changed, said = PLANTED[name]
    assert any(said in fault for fault in faults({**GONE_ON, **changed}, WHOLE))
