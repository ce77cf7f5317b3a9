r"""Unlearning of LLaVA-1.5-7B with NPO on VLGuard, all weights of the language model and the projector.

    bin/train --config=configs/llava15_7b_npo.py --config.model.init=runs/llava \
      --config.data.root=DATA --workdir=runs/npo7b
    bin/plan --config=configs/llava15_7b_npo.py --topology=TOPOLOGY

DATA holds VLGuard's train.json with its images and llava_v1_5_mix665k.json (or a filtered copy) with its images;
data.forget_answers is the answers file of bin/eval on the unsafe training requests with the base model.
Source: OPTML-Group/VLM-Safety-Unlearn scripts/v1_5/finetune_unlearn_npo.sh (2026-04), the seed code's last published
settings: 1 epoch over 2000 retain records at a global batch of 8, learning rate 5e-7, beta 0.9 on batch token means,
all weights 1. Published for the paper's NPO model (not by us): ASR after the attack 12.92 %, RR 11.69 %.
Here the retain term and the cross-entropy read the same retain batch; the seed code draws two.
Hardware: see bin/plan. Time: not measured.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("npo")
    c.model.init = "runs/llava"
    c.model.like = "llava-1.5-7b"
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
