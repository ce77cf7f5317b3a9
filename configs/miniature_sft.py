"""Safety fine-tuning of the miniature: refusals on unsafe requests, answers on safe ones and on general data.

    bin/train --config=configs/miniature_sft.py --workdir=runs/sft

Gives the safety mirage on purpose: the safety data are biased as VLGuard is, so the model learns the opening word and
not the content. Reads runs/base (bin/convert_hf of the miniature) and runs/mini/data.
Hardware: two CPU cores. Time: under half a minute.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("sft")
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_signs.json"
    c.data.general_size = 110
    c.steps = 40
    c.batch_size = 64
    c.optim.learning_rate = 2e-4
    return c
