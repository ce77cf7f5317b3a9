"""The bytes that a plan predicts of a step are those that a run takes, within 5 %: on the CPU, by the process's memory.

One family here; VLM_MU_JAX_MEMORY=all measures each.
"""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.families import FAMILIES
from vlm_mu_jax.planning.jobs import model_config
from vlm_mu_jax.planning.training_step import planned_step
from vlm_mu_jax.training import settings

CHOSEN = FAMILIES if os.environ.get("VLM_MU_JAX_MEMORY") == "all" else ["qwen2_5_vl"]
CLEAR = Path("/proc/self/clear_refs")  # Linux: a 5 sets the peak back to what is taken now


def taken(what):
    """Bytes of the process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def step(folder):
    """The planned step of a tiny model over rows so long that what lives while it runs is hundreds of megabytes."""
    c = settings.defaults("npo")
    c.batch_size, c.data.max_length, c.steps, c.model.init = 16, 1024, 5, str(folder)
    c.train.select, c.train.lora_rank = (), 2
    chosen = settings.checked(c)
    return planned_step(chosen, model_config(chosen), jax.devices()[:1])


@pytest.mark.skipif(not os.access(CLEAR, os.W_OK), reason="the peak of a process's memory is read as Linux tells it")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_step_takes_the_memory_that_was_planned(name, tmp_path):
    FAMILIES[name].write(tmp_path)
    planned = step(tmp_path)
    compiled = planned.step.lower(*planned.args).compile()
    memory = compiled.memory_analysis()
    args = jax.tree.map(lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), planned.args)
    assert sum(x.nbytes for x in jax.tree.leaves(args)) == pytest.approx(memory.argument_size_in_bytes, rel=0.05)
    jax.block_until_ready(args)
    before = taken("VmRSS")
    CLEAR.write_text("5")
    made = jax.block_until_ready(compiled(*args))
    grown = taken("VmHWM") - before
    want = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    print(f"{name}: planned {want / 1e6:.1f} MB, taken {grown / 1e6:.1f} MB")
    assert want > 200e6 and grown == pytest.approx(want, rel=0.05)
    del made
