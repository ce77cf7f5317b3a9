"""A sweep of NPO or RMU on the miniature: a grid of runs in one job, judged by the same questions.

    bin/train --config=configs/sweep.py:npo --workdir=runs/sweep_npo
    bin/train --config=configs/sweep.py:rmu --workdir=runs/sweep_rmu

npo: eight runs, beta x learning rate x retain weight.
rmu: six runs, layer x coefficient of the control vector. The MLP output weights of the first two of four decoder blocks
  train at every point.

Every point is judged by validation questions under every opening word. Its model is that of its best evaluation.
sweep.json, table.md and frontier.svg in the workdir compare the points. A killed sweep goes on where it stopped.

Reads what configs/miniature_unlearn.py reads.
Hardware: two CPU cores. Time: one to three minutes per run, three evaluations included.
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

SWEEPS = {
    "npo": (
        ("objective.beta", (0.3, 1.0)),
        ("optim.learning_rate", (1e-4, 3e-4)),
        ("objective.retain_weight", (1.0, 5.0)),
    ),
    "rmu": (("objective.layer", (1, 2)), ("objective.c", (5.0, 20.0, 80.0))),
}


def get_config(name: str = "npo"):
    if name not in SWEEPS:
        raise InputError(f"configs/sweep.py:{name} is unknown; use one of {', '.join(SWEEPS)}")
    c = defaults(name, layer=1 if name == "rmu" else None)
    if name == "rmu":
        c.objective.update(width_reduction="mean", positions=("prompt", "answer"))
        c.train.update(select=(), slices={"decoder/layers/wdown_LFD": (0, 1)})
        c.optim.learning_rate = 1e-3
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_keep.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.steps = 150
    c.batch_size = 48
    c.forget_batch_size = 16
    c.eval.update(every=50, data="runs/mini/data", batch_size=64, max_new_tokens=32)
    c.sweep = SWEEPS[name]
    return c
