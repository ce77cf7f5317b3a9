r"""Unlearning of LLaVA-1.5-7B with RMU on VLGuard: the seed code's settings for full-parameter RMU.

    bin/train --config=configs/llava15_7b_rmu.py --config.model.init=runs/llava \
      --config.data.root=DATA --workdir=runs/rmu7b
    bin/plan --config=configs/llava15_7b_rmu.py --topology=TOPOLOGY

DATA and data.forget_answers as in llava15_7b_npo.py.
Source: OPTML-Group/VLM-Safety-Unlearn scripts/v1_5/finetune_unlearn.sh: activations after decoder layer 7 are steered
(c 10, retain weight 1, cross-entropy weight 1), the MLP output weights of layers 5, 6, 7 and the projector train at
1e-6. The script asks for 10 epochs, of which, by reading the code, only the first trains: here one epoch over 2000
retain records at a global batch of 8. Means over the width as in that code, but padding counts nothing.
The paper's own layer and c are not known. Published for its RMU model (not by us): ASR after the attack 10.18 %,
RR 7.56 %.
Hardware: see bin/plan. Time: not measured.
"""

from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("rmu", layer=7)
    c.model.init = "runs/llava"
    c.model.like = "llava-1.5-7b"
    c.model.remat = "full"
    c.data.safety = "train.json"
    c.data.general = "llava_v1_5_mix665k.json"
    c.data.forget_answers = "forget_answers.jsonl"
    c.data.retain_size = 2000
    c.objective.reading = "as_code"
    c.objective.positions = ("image", "prompt", "answer")
    c.train.select = ("projector/.*",)
    c.train.slices = {"decoder/layers/wdown_LFD": (5, 6, 7)}
    c.steps = 250
    c.batch_size = 8
    c.optim.learning_rate = 1e-6
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return c
