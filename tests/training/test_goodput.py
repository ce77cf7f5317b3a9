"""Every second of the wall time is in one phase; compilations are seen wherever they happen."""

import time

import jax
import jax.numpy as jnp
import pytest

from vlm_mu_jax.training.goodput import Goodput, summary


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def test_phases_nest_and_add_up_to_the_wall_time(clock):
    goodput = Goodput()
    clock(2.0)
    with goodput.phase("step"):
        clock(5.0)
        with goodput.phase("checkpoint"):
            clock(1.0)
        clock(3.0)
        goodput.shift(0.5, "data")
    clock(0.25)
    seconds = goodput.seconds()
    assert seconds == {"step": 7.5, "compile": 0, "data": 0.5, "checkpoint": 1.0, "evaluation": 0, "setup": 2.25}
    assert goodput.share() == 7.5 / 11.25
    assert "step 66.7 %" in summary(goodput.result()) and summary(goodput.result()).startswith("11.2 s")


def test_compilations_are_counted_and_become_compile_time():
    goodput = Goodput()
    with goodput.watching_compiles(), goodput.phase("step"):
        jax.jit(lambda x: jnp.tanh(x) * 3.25)(jnp.ones(7)).block_until_ready()
    seen = goodput.result()
    assert seen["programs"]["compiled"] + seen["programs"]["from_cache"] >= 1 and seen["seconds"]["compile"] > 0
    before = seen["programs"]
    jax.jit(lambda x: jnp.tanh(x) * 4.25)(jnp.ones(7))
    assert goodput.result()["programs"] == before  # not watched any more
