"""Unlearning of the miniature with any objective.

    bin/train --config=configs/miniature_unlearn.py:npo --workdir=runs/npo
    bin/train --config=configs/miniature_unlearn.py:rmu --workdir=runs/rmu
    bin/train --config=configs/miniature_unlearn.py:dpo --config.model.init=runs/sft --workdir=runs/dpo_after_sft

The name behind the colon is an objective of `MINIATURE` below, which holds what differs from the objective's own
defaults; npo when none is named. The values were set on validation questions of seeds 0 and 1. docs/objectives.md says
what each objective is.

What the model must keep is more than its answers. llava_keep.json is general data with mixed openings, requests behind
unfamiliar first words, and text-only requests with the answers and refusals that the language model had. Without the
last two, unlearning takes away refusals of hazardous text, and a searched word makes the model refuse what is harmless.
A step reads three rows to keep for every row to forget.

Reads runs/base, runs/mini/data and the base model's judged answers on the unsafe training requests
(data.forget_answers). With --config.model.init set to a safety fine-tuned model, it unlearns on top of that.
Hardware: two CPU cores. Time: under a minute (robust variants: a few).
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

KEEP = {"retain_weight": 5.0}
MINIATURE = {
    "ga": {"objective": {}, "steps": 20, "optim": {"learning_rate": 1e-4}},
    "graddiff": {"objective": {"forget_weight": 0.1, **KEEP}},
    # the gate (beta 1 on sequence sums) closes early; with beta 3 it can close too early: on seed 1 of an earlier form
    # of this world attack success stayed at 14 to 16 %
    "npo": {"objective": {"beta": 1.0, **KEEP}},
    "simnpo": {"objective": KEEP},
    "dpo": {"objective": KEEP},
    "idkdpo": {"objective": KEEP},
    # activations after the middle block; only the MLP output weights of the first two blocks train
    "rmu": {
        "objective": {"c": 20.0, "width_reduction": "mean", "positions": ("prompt", "answer")},
        "train": {"select": (), "slices": {"decoder/layers/wdown_LFD": (0, 1)}},
        "optim": {"learning_rate": 1e-3},
    },
    # the same at every block but the last; the MLP output weights in front of them train
    "adaptive_rmu": {
        "objective": {"layers": (1, 2), "width_reduction": "mean", "positions": ("prompt", "answer")},
        "train": {"select": (), "slices": {"decoder/layers/wdown_LFD": (0, 1, 2)}},
        "optim": {"learning_rate": 1e-3},
    },
    "rr": {"objective": {"layers": (1, 2), "positions": ("prompt", "answer"), "retain_alpha": 1.0}},
    "undial": {"objective": KEEP},
    "ceu": {"objective": KEEP},
    "wga": {"objective": KEEP},
    "satimp": {"objective": KEEP},
    "pdu": {"objective": {"retain_limit": 0.05}},
}


def get_config(name: str = "npo"):
    if name not in MINIATURE:
        raise InputError(f"configs/miniature_unlearn.py:{name} is unknown; use one of {', '.join(MINIATURE)}")
    c = defaults(name, layer=1 if name == "rmu" else None)
    c.model.init = "runs/base"
    c.data.root = "runs/mini/data"
    c.data.safety = "train.json"
    c.data.general = "llava_keep.json"
    c.data.forget_answers = "../../forget/answers/unsafe_before.jsonl"
    c.steps = 150
    c.batch_size = 48
    c.forget_batch_size = 16
    c.optim.learning_rate = 3e-4
    c.update(MINIATURE[name])
    return c
