r"""Unlearning of LLaVA-1.5 with NPO or RMU on VLGuard, all weights or LoRA.

    bin/train --config=configs/llava15_unlearn.py:7b_npo --config.model.init=runs/llava \
      --config.data.root=DATA --workdir=runs/npo7b
    bin/plan --config=configs/llava15_unlearn.py:13b_rmu_lora --topology=TOPOLOGY

A variant is a size (7b or 13b), an objective (npo or rmu) and, to train adapters, lora, joined by _: for example
7b_npo or 13b_rmu_lora. DATA holds VLGuard's train.json with its images, and llava_v1_5_mix665k.json (or a filtered
copy) with its images. data.forget_answers is the answers file of bin/eval on the unsafe training requests with the
base model.

npo: the last published settings of the Safety Mirage paper's public code (OPTML-Group/VLM-Safety-Unlearn
  scripts/v1_5/finetune_unlearn_npo.sh, 2026-04): 1 epoch over 2000 retain records at a global batch of 8, learning rate
  5e-7, beta 0.9 on batch token means, all loss weights 1. Language model and projector train. The retain term and the
  cross-entropy read the same retain batch, where that code draws two. Published for the paper's 7B (not by us): ASR
  after the attack 12.92 %, RR 11.69 %.
rmu: scripts/v1_5/finetune_unlearn.sh there. Activations after decoder layer 7 are steered (c 10, retain weight 1,
  cross-entropy weight 1). The MLP output weights of layers 5, 6, 7 and the projector train at 1e-6. The script asks for
  10 epochs, of which, by reading the code, only the first trains: this is one epoch. Means are over the width as in
  that code, but padding does not count. The paper's own layer and c are not known. Published for its 7B (not by us):
  ASR after the attack 10.18 %, RR 7.56 %.
lora: adapters on every linear map of the decoder. The projector stays as it is. Rank, scale and learning rate are our
  choice and not a published one: tune them. NPO is per example (as_paper, beta 0.1), so that rows can run one after
  another (accumulate). With rmu, adapters above layer 7 learn from the cross-entropy on retain data alone.
13b: not part of those experiments. The settings are those for 7B.

Plans of bin/plan: GiB per chip / least seconds per step (roofline). Rows have 2048 tokens and an image each. There are
8 rows per stream, 16 on v5e-16 and 64 on v5e-64. The L4 takes its 8 one by one (accumulate=8). "-" was not planned.
GPUs are estimates. docs/scaling.md says more.
  variant              v5e-16        v5e-64         v5p-8      8 x H100          H200            L4
  7b_npo            8.3 / 1.3     3.5 / 1.1     30 / 0.95     15 / 0.23     123 / 1.8             -
  7b_npo_lora      3.1 / 0.84             -    7.4 / 0.72    4.1 / 0.17      28 / 1.3       19 / 11
  7b_rmu           2.5 / 0.56    1.7 / 0.56    6.6 / 0.48    3.8 / 0.11     25 / 0.89             -
  7b_rmu_lora      3.3 / 0.56             -    8.7 / 0.48             -     33 / 0.89      18 / 7.3
  13b_npo            15 / 2.2     5.9 / 2.1      58 / 1.8     29 / 0.43        no fit             -
  13b_npo_lora      5.2 / 1.6             -      13 / 1.4             -      48 / 2.5             -
  13b_rmu             4.3 / 1             -     11 / 0.87             -      44 / 1.6             -
  13b_rmu_lora      5.5 / 1.2             -     16 / 0.87             -      60 / 1.6             -

Hardware: where a plan fits. Time: not measured on any device.
"""

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.settings import defaults

SIZES, OBJECTIVES = ("7b", "13b"), ("npo", "rmu")
VARIANTS = tuple(f"{size}_{name}{lora}" for size in SIZES for name in OBJECTIVES for lora in ("", "_lora"))
LORA = {"select": (), "lora_rank": 16, "lora_alpha": 32.0}


def get_config(variant: str = "7b_npo"):
    if variant not in VARIANTS:
        raise InputError(f"configs/llava15_unlearn.py:{variant} is unknown; use one of {', '.join(VARIANTS)}")
    size, name, *lora = variant.split("_")
    c = _npo(bool(lora)) if name == "npo" else _rmu(bool(lora))
    c.model.init = "runs/llava" if size == "7b" else "runs/llava13b"
    c.model.like = f"llava-1.5-{size}"
    c.model.remat = "full"
    c.data.safety = "train.json"
    c.data.general = "llava_v1_5_mix665k.json"
    c.data.forget_answers = "forget_answers.jsonl"
    c.data.retain_size = 2000
    c.steps = 250
    c.batch_size = 8
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return c


def _npo(lora: bool):
    c = defaults("npo")
    if lora:
        c.objective.update(reading="as_paper", beta=0.1)
        c.train.update(LORA)
        c.optim.learning_rate = 1e-4
    else:
        c.objective.update(reading="as_code", beta=0.9)
        c.optim.learning_rate = 5e-7
    return c


def _rmu(lora: bool):
    c = defaults("rmu", layer=7)
    c.objective.update(reading="as_code", positions=("image", "prompt", "answer"))
    if lora:
        c.train.update(LORA)
    else:
        c.train.update(select=("projector/.*",), slices={"decoder/layers/wdown_LFD": (5, 6, 7)})
    c.optim.learning_rate = 1e-4 if lora else 1e-6
    return c
