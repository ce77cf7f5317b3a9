"""Safety fine-tuning of the miniature: the baselines that unlearning is compared with.

    bin/train --config=configs/miniature_sft.py --workdir=runs/sft
    bin/train --config=configs/miniature_sft.py:diverse --workdir=runs/sft_diverse

The name behind the colon is one of these; posthoc when none is named:

posthoc: refusals on unsafe requests, answers on safe ones, and a quarter of the general data. It gives the safety
  mirage on purpose: the safety data are biased as VLGuard is, so the model learns the opening word and not the content.
mixed: the same refusals and answers inside all of the general instruction data, trained three times as long. VLGuard
  mixes them into visual instruction tuning. For a real model start from the checkpoint before that stage.
diverse: posthoc with the general data that unlearning gets: harmless requests under evenly mixed and unfamiliar opening
  words, and text-only requests. It asks whether better data fix the mirage, and is the fair baseline of NPO and RMU.
unsafe_filter: general data only, none of which answers an unsafe request. It has no refusals at all.

Reads runs/base (bin/convert_hf of the miniature) and runs/mini/data.
Hardware: two CPU cores. Time: under half a minute (mixed: one).
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

VARIANTS = {
    "posthoc": {"data": {"general": "llava_signs.json", "general_size": 110}},
    "mixed": {"data": {"general": "llava_signs.json"}, "steps": 120},
    "diverse": {"data": {"general": "llava_keep.json"}},
    "unsafe_filter": {"data": {"general": "llava_mix.json", "safety": ""}},
}


def get_config(name: str = "posthoc"):
    if name not in VARIANTS:
        raise InputError(f"configs/miniature_sft.py:{name} is unknown; use one of {', '.join(VARIANTS)}")
    c = defaults("sft")
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.steps = 40
    c.batch_size = 64
    c.optim.learning_rate = 2e-4
    c.update(VARIANTS[name])
    return c
