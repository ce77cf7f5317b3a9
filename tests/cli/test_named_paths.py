"""Flags of several paths with names."""

import pytest

from vlm_mu_jax.cli import named_paths
from vlm_mu_jax.errors import InputError


def test_a_value_is_a_path_with_a_name_or_a_path_alone(tmp_path):
    assert named_paths.split("npo=runs/npo") == ("npo", "runs/npo")
    assert named_paths.split("npo=runs/lr=2e-5") == ("npo", "runs/lr=2e-5")
    assert named_paths.split("runs/npo") == (None, "runs/npo")
    odd = tmp_path / "lr=2e-5"
    odd.mkdir()
    assert named_paths.split(str(odd)) == (None, str(odd)), "a folder with = in its name"


def test_every_name_is_there_once():
    def last(path):
        return path.rpartition("/")[2]

    assert named_paths.by_name("--guard", ["runs/a", "b=runs/c"], last) == {"a": "runs/a", "b": "runs/c"}
    with pytest.raises(InputError, match="--guard=x/a: there is 'a' already; write --guard=NAME=x/a"):
        named_paths.by_name("--guard", ["a=runs/c", "x/a"], last)
    with pytest.raises(InputError, match="--again=runs/a: whose is it"):
        named_paths.by_name("--again", ["runs/a"])
