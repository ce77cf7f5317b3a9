"""Started by the tests of this folder, once per process of a job, with a number of fake CPU devices.

python training_on_devices.py '[{"objective": "npo", "mesh": [1, 1, 1], "steps": 3}]' OUT [ADDRESS PROCESSES PROCESS]

Trains one after the other; process 0 writes the result of each that was not stopped (metrics, weights, how many devices
hold them) as OUT_0.npz, OUT_1.npz ...; every process writes the images it opened in each to OUT_opened_PROCESS.json.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from tests.training import tiny
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import Batch
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.trainable import Selection

OBJECTIVES = {"sft": {}, "npo": {"beta": 0.5}, "rmu": {"layer": 0, "c": 2.0}}
SELECTIONS = {
    "rmu": Selection.of(select=["projector/.*"], slices={"decoder/layers/wdown_LFD": [0]}),
    "npo": Selection.of(select=["projector/.*", "decoder/.*norm.*"], lora_rank=2),
}
# An eps far above the gradients makes Adam's update proportional to them: equal weights then mean equal gradients.
OPTIM = OptimConfig(10.0, schedule="constant", eps=1e3, clip=0.0)


class Stopped(Exception):
    """Ends a training from within, between two steps."""


def main(jobs, out):
    opened = [[] for _ in jobs]
    start = tiny.params(tiny.LLAVA)  # as one jitted program the draws would take four seconds to compile
    for i, job in enumerate(jobs):
        answers = job.pop("answers", False)
        try:
            fitted = trained(start, opened[i], **job)
        except Stopped:
            continue
        said = {"tokens": answered(fitted.params)} if answers else {}
        flat = flatten(fitted.params)
        used = {len(leaf.sharding.device_set) for leaf in flat.values()}
        weights = {f"weights/{path}": distributed.to_host(leaf) for path, leaf in flat.items()}
        if distributed.first():
            np.savez(f"{out}_{i}.npz", **weights, **fitted.metrics, **said, devices=sorted(used))
    with open(f"{out}_opened_{jax.process_index()}.json", "w") as file:
        json.dump(opened, file)


def trained(start, opened, objective, mesh, steps, stop=None, workdir=None, accumulate=1, order=None):
    devices = [jax.devices()[i] for i in order or range(jax.device_count())]
    made = make_objective(objective, **OBJECTIVES[objective])
    return tiny.fit(
        made,
        start,
        steps,
        streams(made, opened),
        make_mesh(*mesh, devices[: int(np.prod(mesh))]),
        cfg=tiny.LLAVA,
        optim=OPTIM,
        trainable=SELECTIONS.get(objective, Selection()),
        accumulate=accumulate,
        workdir=None if workdir is None else Path(workdir),
        checkpoint_every=2,
        progress=stopping(stop),
    )


def answered(params):
    """Eight greedy tokens behind each of eight prompts, computed where the parameters lie."""
    rows = tiny.rows(8, 5, tiny.LLAVA)
    prompts = [row.ids[: row.mask.index(True)] for row in rows]
    tokens = np.zeros((8, max(map(len, prompts))), np.int32)
    for row, ids in zip(tokens, prompts, strict=True):
        row[: len(ids)] = ids
    pixels = np.stack([row.images[0][None] for row in rows])
    batch = Batch(tokens, np.array([len(ids) for ids in prompts], np.int32), pixels)
    return distributed.to_host(generate(params, batch, tiny.LLAVA, max_new_tokens=8).tokens_BG)


def streams(objective, opened):
    """Streams whose images are opened by name, as from files."""
    made = {}
    for i, name in enumerate(objective.streams):
        rows = tiny.rows(10, i, tiny.LLAVA)
        pixels = {f"{name}/{one.id}": one.images[0] for one in rows}

        def load(key, pixels=pixels):
            opened.append(key)
            return pixels[key]

        rows = [TrainRow(one.id, one.ids, one.mask, (f"{name}/{one.id}",)) for one in rows]
        made[name] = Stream(rows, 8, i, name=name, load_image=load)
    return made


def stopping(stop):
    """A progress function that ends the training before step `stop` (0-based)."""

    def progress(items, label, total=None):
        for item in items:
            if label == "train" and item == stop:
                raise Stopped
            yield item

    return progress


if __name__ == "__main__":
    if len(sys.argv) > 3:
        distributed.join(sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    main(json.loads(sys.argv[1]), sys.argv[2])
