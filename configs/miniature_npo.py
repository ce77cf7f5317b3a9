"""Unlearning of the miniature with NPO.

    bin/train --config=configs/miniature_npo.py --workdir=runs/npo

Gives a model that no longer answers unsafe requests, whatever their opening word, and still answers harmless ones: two
thirds of what it must keep is general data with mixed openings, and the gate (beta 1 on sequence sums) closes early.
With beta 3 it can close too early: on seed 1 of an earlier form of this world attack success stayed at 14 to 16 %.
Reads runs/base, runs/mini/data and the base model's judged answers on the unsafe training requests
(data.forget_answers). Hardware: two CPU cores. Time: under a minute.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("npo")
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_mix.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.objective.beta = 1.0
    c.objective.retain_weight = 5.0
    c.steps = 150
    c.batch_size = 32
    c.optim.learning_rate = 3e-4
    return c
