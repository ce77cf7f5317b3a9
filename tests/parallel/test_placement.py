"""The placement of a model: copies where it fits, else split as little as it must be."""

import dataclasses

import jax
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families.published import published
from vlm_mu_jax.model.memory import generation_bytes
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.parallel.placement import Placement, current, parse, placed

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of 16 GB."""

    id: int
    platform: str = "tpu_like"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0

    def memory_stats(self):
        return {"bytes_limit": 16 * GIB}


@pytest.fixture
def eight(monkeypatch):
    devices = [Device(i) for i in range(8)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    return devices


def needed(weights, most_tensor=8):
    """Of a model whose weights are split over fsdp and tensor, with half a GiB for each row of a device."""

    def bytes_of(mesh, rows, new_tokens):
        if most_tensor % mesh.shape["tensor"]:
            raise InputError("does not divide")
        return weights / (mesh.shape["fsdp"] * mesh.shape["tensor"]) + rows / mesh.shape["data"] * GIB / 2

    return bytes_of


@pytest.mark.parametrize(
    ("weights", "most_tensor", "rows", "sizes"),
    [
        (4, 8, 16, (8, 1, 1)),  # fits: copies
        (4, 8, 2, (2, 1, 1)),  # no more copies than rows
        (26, 8, 16, (2, 1, 4)),  # tensor 2 leaves no room for the rows
        (26, 2, 4, (4, 1, 2)),
        (50, 2, 4, (2, 2, 2)),  # two heads: further splitting is fsdp's
        (50, 2, 1, (1, 2, 2)),
    ],
)
def test_weights_are_split_only_as_far_as_they_must_be(eight, weights, most_tensor, rows, sizes):
    mesh = Placement(rows=rows).mesh("m", needed(weights * GIB, most_tensor))
    assert tuple(mesh.shape.values()) == sizes


def test_a_model_that_fits_in_no_way_is_one_line(eight):
    with pytest.raises(InputError, match=r"runs/big: needs 62.5 GiB on each of 8 devices by estimate, of 14.4"):
        Placement(rows=1).mesh("runs/big", needed(496 * GIB))


def test_sizes_that_are_given_hold_without_an_estimate(eight):
    told = []
    mesh = Placement((2, 1, 2), tell=told.append).mesh("m", needed(400 * GIB))
    assert tuple(mesh.shape.values()) == (2, 1, 2)
    assert told == ["m: 4 of 8 devices, data 2 x fsdp 1 x tensor 2; about 204.0 GiB of 16.0 GiB per device"]
    assert tuple(Placement((-1, 1, 2)).mesh("m", needed(1)).shape.values()) == (4, 1, 2)
    with pytest.raises(InputError, match="--mesh=4,1,4 needs 16 devices; there are 8"):
        Placement((4, 1, 4)).mesh("m", needed(1))


def test_one_device_needs_no_mesh(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(0)])
    assert Placement().mesh("m", needed(400 * GIB)) is None


def test_a_placement_holds_inside_its_block():
    with placed(Placement((1, 1, 1))):
        assert current().sizes == (1, 1, 1)
    assert current() is None


@pytest.mark.parametrize("given", [["1", "2"], ["1", "x", "1"], ["1", "1", "1", "1"]])
def test_three_whole_numbers_are_wanted(given):
    with pytest.raises(InputError, match="give three whole numbers"):
        parse(given)


def test_a_7b_model_is_split_in_halves_on_16_gb(eight):
    """13.1 GiB of weights leave no room for 16 rows."""
    cfg = published("llava-1.5-7b")

    def bytes_of(mesh, rows, new_tokens):
        return generation_bytes(cfg, "bfloat16", mesh, rows, new_tokens)

    assert 13 * GIB < bytes_of(make_mesh(1, 1, 1, eight[:1]), 0, 0) < 13.3 * GIB
    assert tuple(Placement().mesh("m", bytes_of).shape.values()) == (4, 1, 2)
