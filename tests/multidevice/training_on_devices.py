"""Started by test_training.py with a number of fake CPU devices; prints one JSON object.

python training_on_devices.py ACTION DATA FSDP TENSOR WORKDIR
"""

import json
import sys

import jax
import numpy as np

from tests.training import tiny
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.training.loop import train
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.trainable import Selection

OBJECTIVES = {"sft": {}, "npo": {"beta": 0.5}, "rmu": {"layer": 0, "c": 2.0}}
SELECTIONS = {"rmu": Selection.of(select=["projector/.*"], slices={"decoder/layers/wdown_LFD": [0]})}


def main(name, data, fsdp, tensor, steps, workdir):
    devices = data * fsdp * tensor
    mesh = make_mesh(data, fsdp, tensor, jax.devices()[:devices])
    objective = make_objective(name, **OBJECTIVES[name])
    streams = tiny.streams(objective, cfg=tiny.LLAVA)
    params, metrics = train(
        tiny.LLAVA, tiny.params(tiny.LLAVA), streams, objective, OptimConfig(1e-2, schedule="constant"), 4,
        trainable=SELECTIONS.get(name, Selection()), mesh=mesh, accumulate=1,
        workdir=workdir, checkpoint_every=2, **stop_after(steps, streams),
    )  # fmt: skip
    flat = flatten(params)
    used = {len(leaf.sharding.device_set) for leaf in flat.values()}
    sums = {path: float(np.abs(np.asarray(leaf)).sum()) for path, leaf in flat.items()}
    print(json.dumps({"loss": metrics["loss"].tolist(), "norm": metrics["gradient_norm"].tolist(), "sums": sums,
                      "devices": sorted(used), "steps": metrics["step"].tolist()}))  # fmt: skip


def stop_after(steps, streams):
    """A progress function that ends the process when the run has done `steps` steps (as a kill does)."""
    if steps >= 4:
        return {}

    def progress(items, label, total=None):
        for i, item in enumerate(items):
            if label == "train" and i == steps:
                sys.exit(0)
            yield item

    return {"progress": progress}


if __name__ == "__main__":
    name, data, fsdp, tensor, steps, *workdir = sys.argv[1:]
    main(name, int(data), int(fsdp), int(tensor), int(steps), workdir[0] if workdir else None)
