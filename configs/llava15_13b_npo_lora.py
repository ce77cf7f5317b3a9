r"""Unlearning of LLaVA-1.5-13B with NPO on VLGuard, LoRA on the language model: the smallest machine that will do.

    bin/train --config=configs/llava15_13b_npo_lora.py --config.model.init=runs/llava13b \
      --config.data.root=DATA --workdir=runs/npo13blora
    bin/plan --config=configs/llava15_13b_npo_lora.py --topology=TOPOLOGY

DATA and data.forget_answers as in llava15_7b_npo.py. The projector stays as it is.
NPO per example (as_paper), so that rows can be run one after another (accumulate): one row of forget and of retain data
in memory at a time. Rank, scale, learning rate and beta are our choice, not a published one; tune them.
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
    c.objective.reading = "as_paper"
    c.objective.beta = 0.1
    c.train.select = ()
    c.train.lora_rank = 16
    c.train.lora_alpha = 32.0
    c.steps = 250
    c.batch_size = 8
    c.accumulate = 1
    c.optim.learning_rate = 1e-4
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return c
