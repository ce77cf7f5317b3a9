"""Unlearning of the miniature with RMU.

    bin/train --config=configs/miniature_rmu.py --workdir=runs/rmu

Pushes the activations of unsafe requests after the middle decoder block to one fixed random vector, and holds those of
retain data. Only the MLP output weights of the first two blocks train.
Reads runs/base, runs/mini/data and the base model's judged answers on the unsafe training requests
(data.forget_answers). Hardware: two CPU cores. Time: under a minute.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("rmu", layer=1)
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_mix.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.objective.c = 20.0
    c.objective.width_reduction = "mean"
    c.objective.positions = ("prompt", "answer")
    c.train.select = ()
    c.train.slices = {"decoder/layers/wdown_LFD": (0, 1)}
    c.steps = 150
    c.batch_size = 32
    c.optim.learning_rate = 1e-3
    return c
