"""Safety fine-tuning of the English world (bin/quickstart --world=english): the last 10 of SmolLM2's 30 blocks train.

    bin/train --config=configs/english_sft.py --config.model.init=base --config.data.root=mini/data --workdir=sft

The name behind the colon is one of `VARIANTS`; posthoc when none is named. They read what the miniature's variants of
the same name read (configs/miniature_sft.py):

posthoc: refusals on unsafe requests, answers on safe ones, and a quarter of the general data.
diverse: posthoc with the general data that unlearning gets.

Hardware: two CPU cores. Time: see docs/english.md.
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

LAST = tuple(range(20, 30))
STACKS = "attn_norm_LD wq_LDNH wk_LDKH wv_LDKH wo_LNHD mlp_norm_LD wgate_LDF wup_LDF wdown_LFD".split()
VARIANTS = {
    "posthoc": {"data": {"general": "llava_signs.json", "general_size": 110}},
    "diverse": {"data": {"general": "llava_keep.json"}},
}


def get_config(name: str = "posthoc"):
    if name not in VARIANTS:
        raise InputError(f"configs/english_sft.py:{name} is unknown; use one of {', '.join(VARIANTS)}")
    c = defaults("sft")
    c.model.init = "runs/english/base"
    c.data.root = "runs/english/mini/data"
    c.data.safety = "train.json"
    c.steps = 20
    c.batch_size = 16
    c.train.update(select=(), slices={f"decoder/layers/{name}": LAST for name in STACKS})
    c.optim.learning_rate = 1.5e-4
    c.update(VARIANTS[name])
    return c
