r"""Unlearning of LLaVA-1.5-13B with RMU on VLGuard, LoRA on the language model.

    bin/train --config=configs/llava15_13b_rmu_lora.py --config.model.init=runs/llava13b \
      --config.data.root=DATA --workdir=runs/rmu13blora
    bin/plan --config=configs/llava15_13b_rmu_lora.py --topology=TOPOLOGY

DATA and data.forget_answers as in llava15_7b_npo.py; the objective is that of llava15_13b_rmu.py.
Adapters on every linear of the decoder; those above layer 7 learn from the cross-entropy on retain data alone.
Rank, scale and learning rate are our choice, not a published one; tune them.
Hardware: see bin/plan. Time: not measured.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("rmu", layer=7)
    c.model.init = "runs/llava13b"
    c.model.like = "llava-1.5-13b"
    c.model.remat = "full"
    c.data.safety = "train.json"
    c.data.general = "llava_v1_5_mix665k.json"
    c.data.forget_answers = "forget_answers.jsonl"
    c.data.retain_size = 2000
    c.objective.reading = "as_code"
    c.objective.positions = ("image", "prompt", "answer")
    c.train.select = ()
    c.train.lora_rank = 16
    c.train.lora_alpha = 32.0
    c.steps = 250
    c.batch_size = 8
    c.optim.learning_rate = 1e-4
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return c
