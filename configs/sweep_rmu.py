"""A sweep of RMU on the miniature: layer x coefficient of the control vector, six runs in one job.

    bin/train --config=configs/sweep_rmu.py --workdir=runs/sweep_rmu

The MLP output weights of the first two of four decoder blocks train at every point. Points are judged and compared as
in configs/sweep_npo.py, and it reads the same files.
Hardware: two CPU cores. Time:
not measured yet (six runs of configs/miniature_unlearn.py:rmu, each with three evaluations).
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("rmu", layer=1)
    c.objective.update(width_reduction="mean", positions=("prompt", "answer"))
    c.train.update(select=(), slices={"decoder/layers/wdown_LFD": (0, 1)})
    c.optim.learning_rate = 1e-3
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_mix.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.steps = 150
    c.batch_size = 32
    c.eval.update(every=50, data="runs/mini/data", batch_size=64, max_new_tokens=32)
    c.sweep = (("objective.layer", (1, 2)), ("objective.c", (5.0, 20.0, 80.0)))
    return c
