r"""Unlearning of LLaVA-1.5-13B with NPO on VLGuard, all weights of the language model and the projector.

    bin/train --config=configs/llava15_13b_npo.py --config.model.init=runs/llava13b \
      --config.data.root=DATA --workdir=runs/npo13b
    bin/plan --config=configs/llava15_13b_npo.py --topology=TOPOLOGY

DATA and data.forget_answers as in llava15_7b_npo.py.
Source: OPTML-Group/VLM-Safety-Unlearn scripts/v1_5/finetune_unlearn_npo.sh (2026-04), the seed code's last published
settings: 1 epoch over 2000 retain records at a global batch of 8, learning rate 5e-7, beta 0.9 on batch token means,
all weights 1. The 13B model was not part of those experiments; the settings are those for 7B.
Hardware: see bin/plan. Time: not measured.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("npo")
    c.model.init = "runs/llava13b"
    c.model.like = "llava-1.5-13b"
    c.model.remat = "full"
    c.data.safety = "train.json"
    c.data.general = "llava_v1_5_mix665k.json"
    c.data.forget_answers = "forget_answers.jsonl"
    c.data.retain_size = 2000
    c.objective.reading = "as_code"
    c.objective.beta = 0.9
    c.steps = 250
    c.batch_size = 8
    c.optim.learning_rate = 5e-7
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return c
