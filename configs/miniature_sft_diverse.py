"""Safety fine-tuning of the miniature on diversified data: does rebalancing the data fix the mirage?

    bin/train --config=configs/miniature_sft_diverse.py --workdir=runs/sft_diverse

The same steps as miniature_sft.py, with the general data that unlearning gets: harmless requests under evenly mixed
opening words. It is the fair baseline of NPO and RMU. Reads runs/base and runs/mini/data.
Hardware: two CPU cores. Time: under half a minute.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("sft")
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_mix.json"
    c.steps = 40
    c.batch_size = 64
    c.optim.learning_rate = 2e-4
    return c
