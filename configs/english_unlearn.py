"""Unlearning in the English world (bin/quickstart --world=english).

    bin/train --config=configs/english_unlearn.py:npo --config.model.init=base --config.data.root=data --workdir=npo
    bin/train --config=configs/english_unlearn.py:rmu --config.model.init=base --config.data.root=data --workdir=rmu

npo: the last 10 of SmolLM2's 30 blocks train, as in configs/english_sft.py. rmu: the MLP output weights of layers 5 to
  7, activations after layer 7, as the Safety Mirage paper's public code has them (configs/llava15_unlearn.py). What the
  model must keep is llava_keep.json, as in configs/miniature_unlearn.py.

Reads also the base model's judged answers on the unsafe training requests (data.forget_answers).
Hardware: two CPU cores. Time: see docs/english.md.
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

LAST = tuple(range(20, 30))
STACKS = "attn_norm_LD wq_LDNH wk_LDKH wv_LDKH wo_LNHD mlp_norm_LD wgate_LDF wup_LDF wdown_LFD".split()
KEEP = {"retain_weight": 5.0}
ENGLISH = {
    "npo": {
        "objective": {"beta": 0.5, **KEEP},
        "train": {"select": (), "slices": {f"decoder/layers/{name}": LAST for name in STACKS}},
        "optim": {"learning_rate": 2e-4},
    },
    # The residual stream of SmolLM2 has norms of 90 to 160 behind layer 7 (some 700 at the turn's tokens), where the
    # miniature's has single digits: a target of norm 20 would be no move at all
    "rmu": {
        "objective": {"c": 300.0, "width_reduction": "mean", "positions": ("prompt", "answer"), **KEEP},
        "train": {"select": (), "slices": {"decoder/layers/wdown_LFD": (5, 6, 7)}},
        "optim": {"learning_rate": 2e-3},
    },
}


def get_config(name: str = "npo"):
    if name not in ENGLISH:
        raise InputError(f"configs/english_unlearn.py:{name} is unknown; use one of {', '.join(ENGLISH)}")
    c = defaults(name, layer=7 if name == "rmu" else None)
    c.model.init = "runs/english/base"
    c.data.root = "runs/english/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_keep.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.steps = 30
    c.batch_size = 12
    c.forget_batch_size = 6
    c.update(ENGLISH[name])
    return c
