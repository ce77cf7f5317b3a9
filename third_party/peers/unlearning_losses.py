"""NPO and RMU as published PyTorch code states them, on given arrays.

Each function is a short statement of one public formula, written from the description of that code, with the source
beside it. Parity tests compare vlm_mu_jax against them; vlm_mu_jax itself never imports torch.
"""

import torch
import torch.nn.functional as F


def token_nll(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Per-token NLL after the usual shift; 0 where the label is -100. [B, T - 1]."""
    shifted = logits_BTV[:, :-1].float()
    return F.cross_entropy(shifted.transpose(1, 2), labels_BT[:, 1:], ignore_index=-100, reduction="none")


def batch_ce(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """`outputs.loss` of Hugging Face causal models: mean over all labelled tokens of the batch."""
    return token_nll(logits_BTV, labels_BT).sum() / (labels_BT[:, 1:] != -100).sum()


def npo_sequence_sum(logits, reference_logits, labels, beta: float) -> torch.Tensor:
    """Per-example sums, then the mean. Source: locuslab/open-unlearning@d3d7cf9 src/trainer/utils.py."""
    ratio = token_nll(logits, labels).sum(-1) - token_nll(reference_logits, labels).sum(-1)
    return -2 / beta * F.logsigmoid(beta * ratio).mean()


def npo_batch_token_mean(logits, reference_logits, labels, beta: float) -> torch.Tensor:
    """One ratio per batch. Source: OPTML-Group/VLM-Safety-Unlearn@1f89239 llava/train/llava_unlearn_full_trainer.py."""
    return 2 / beta * -F.logsigmoid(beta * (batch_ce(logits, labels) - batch_ce(reference_logits, labels)))


def npo_retain(logits, reference_logits, labels, beta: float) -> torch.Tensor:
    """The same code's term on retain data: the sign flipped."""
    return 2 / beta * F.logsigmoid(beta * (batch_ce(logits, labels) - batch_ce(reference_logits, labels)))


def rmu_code(hidden, control, retain, frozen, alpha: float) -> torch.Tensor:
    """Means over batch, position and width, no mask. Source: the same file."""
    unlearn = F.mse_loss(hidden, control.expand_as(hidden))
    return unlearn + alpha * F.mse_loss(retain, frozen)


def rmu_paper(hidden, control, mask_BT) -> torch.Tensor:
    """Squared norm of the difference, averaged over real positions. Source: arXiv 2503.11832, eq. 2."""
    squared = ((hidden - control) ** 2).sum(-1)
    return squared[mask_BT].mean()
