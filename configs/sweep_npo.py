"""A sweep of NPO on the miniature: beta x learning rate x retain weight, eight runs in one job.

    bin/train --config=configs/sweep_npo.py --workdir=runs/sweep_npo

Every point is judged by validation questions under every opening word; sweep.json, table.md and frontier.svg in the
workdir compare them, and each point's model is that of its best evaluation. A killed sweep goes on where it stopped.
Reads what configs/miniature_unlearn.py reads.
Hardware: two CPU cores. Time:
not measured yet (eight runs of configs/miniature_unlearn.py:npo, each with three evaluations).
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("npo")
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_mix.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.steps = 150
    c.batch_size = 32
    c.eval.update(every=50, data="runs/mini/data", batch_size=64, max_new_tokens=32)
    c.sweep = (
        ("objective.beta", (0.3, 1.0)),
        ("optim.learning_rate", (1e-4, 3e-4)),
        ("objective.retain_weight", (1.0, 5.0)),
    )
    return c
