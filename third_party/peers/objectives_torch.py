"""Public unlearning objectives stated in PyTorch over transformers' LLaVA: the peer of tests/parity/test_objectives.py.

Every function restates one public formula in our own words, with its source beside it, on whole models: forward passes,
labels of -100 and shifts as Hugging Face has them. A batch is a dict of the model's inputs (input_ids, attention_mask,
pixel_values) and `labels`; `ref` is the model before training. vlm_mu_jax itself never imports torch.
"""

import torch
import torch.nn.functional as F

Batch = dict[str, torch.Tensor]
IGNORED = -100


def _inputs(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}


def _next_token(model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, T - 1, V] and the labels they predict."""
    return model(**_inputs(batch)).logits[:, :-1].float(), batch["labels"][:, 1:]


def _hidden(model, batch: Batch, layer: int) -> torch.Tensor:
    """Residual stream after decoder block `layer`, by a hook, as RMU codes take it."""
    kept = []
    block = model.get_submodule(f"model.language_model.layers.{layer}")
    hook = block.register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    model(**_inputs(batch))
    hook.remove()
    return kept[0]


def token_nll(model, batch: Batch) -> torch.Tensor:
    """[B, T - 1], 0 where nothing is labelled."""
    logits, labels = _next_token(model, batch)
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


def tokens(batch: Batch) -> torch.Tensor:
    """Labelled tokens per example, [B]."""
    return (batch["labels"][:, 1:] != IGNORED).sum(-1)


def ce(model, batch: Batch) -> torch.Tensor:
    """`outputs.loss` of Hugging Face causal models: mean over all labelled tokens of the batch."""
    return token_nll(model, batch).sum() / tokens(batch).sum()


def _ratio(model, ref, batch: Batch, reduction: str) -> torch.Tensor:
    with torch.no_grad():
        before = token_nll(ref, batch)
    difference = (token_nll(model, batch) - before).sum(-1)
    if reduction == "sequence_sum":
        return difference
    return difference / tokens(batch) if reduction == "token_mean" else difference.sum() / tokens(batch).sum()


def npo(model, ref, batch: Batch, beta: float, reduction: str) -> torch.Tensor:
    """sequence_sum: locuslab/open-unlearning@d3d7cf9 src/trainer/utils.py (the NPO authors' form, arXiv 2404.05868);
    batch_token_mean: OPTML-Group/VLM-Safety-Unlearn@1f89239 llava/train/llava_unlearn_full_trainer.py."""
    return (-2 / beta * F.logsigmoid(beta * _ratio(model, ref, batch, reduction))).mean()


def preference(model, ref, batch: Batch, beta: float, reduction: str) -> torch.Tensor:
    """The second code's term on retain data: the sign flipped."""
    return (2 / beta * F.logsigmoid(beta * _ratio(model, ref, batch, reduction))).mean()


def simnpo(model, batch: Batch, beta: float, delta: float) -> torch.Tensor:
    """arXiv 2410.07163; open-unlearning src/trainer/unlearn/simnpo.py."""
    per_token = token_nll(model, batch).sum(-1) / tokens(batch)
    return (-2 / beta * F.logsigmoid(beta * (per_token - delta))).mean()


def dpo(model, ref, win: Batch, lose: Batch, beta: float) -> torch.Tensor:
    """open-unlearning src/trainer/utils.py: sums of log-probabilities, factor 2 / beta."""
    log_win = -_ratio(model, ref, win, "sequence_sum")
    log_lose = -_ratio(model, ref, lose, "sequence_sum")
    return (-2 / beta * F.logsigmoid(beta * (log_win - log_lose))).mean()


def weighted_ascent(model, batch: Batch, sure: float, unsure: float) -> torch.Tensor:
    """WGA (arXiv 2502.19301, unsure 0) and SatImp (arXiv 2505.11953); open-unlearning src/trainer/utils.py."""
    nll = token_nll(model, batch)[batch["labels"][:, 1:] != IGNORED]
    p = torch.exp(-nll.detach())
    return -(p**sure * (1 - p) ** unsure * nll).mean()


def undial(model, ref, batch: Batch, beta: float) -> torch.Tensor:
    """arXiv 2402.10052 as its formula has it: labelled positions only (the public code masks nothing)."""
    logits, labels = _next_token(model, batch)
    with torch.no_grad():
        teacher, _ = _next_token(ref, batch)
    keep = labels != IGNORED
    student, teacher, labels = logits[keep], teacher[keep], labels[keep]
    target = F.softmax(teacher - beta * F.one_hot(labels, teacher.shape[-1]), dim=-1)
    return F.cross_entropy(student, target)


def ceu(model, batch: Batch, skip: int) -> torch.Tensor:
    """arXiv 2503.01224; open-unlearning src/trainer/utils.py: the first `skip` answer tokens do not count."""
    logits, labels = _next_token(model, batch)
    valid = labels != IGNORED
    keep = valid & (valid.long().cumsum(-1) > skip)
    student, labels = logits[keep], labels[keep]
    target = F.softmax(student.detach().scatter(1, labels[:, None], float("-inf")), dim=-1)
    return F.cross_entropy(student, target)


def flat(model, batch: Batch) -> torch.Tensor:
    """The forget loss of PDU, arXiv 2506.05314, at the positions that predict the labelled tokens."""
    logits, labels = _next_token(model, batch)
    return ((logits.amax(-1) - logits.mean(-1)) ** 2)[labels != IGNORED].mean()


def kl(model, ref, batch: Batch) -> torch.Tensor:
    """KL(reference || current) at labelled positions; open-unlearning's direction, its missing mask added."""
    logits, labels = _next_token(model, batch)
    with torch.no_grad():
        before, _ = _next_token(ref, batch)
    keep = labels != IGNORED
    current, before = F.log_softmax(logits[keep], -1), F.log_softmax(before[keep], -1)
    return F.kl_div(current, before, log_target=True, reduction="batchmean")


def rmu_code(model, batch: Batch, layer: int, control: torch.Tensor) -> torch.Tensor:
    """OPTML-Group/VLM-Safety-Unlearn@1f89239: mean over batch, positions (padding too) and width."""
    hidden = _hidden(model, batch, layer)
    return F.mse_loss(hidden, control.expand_as(hidden))


def rmu_paper(model, batch: Batch, layer: int, control: torch.Tensor) -> torch.Tensor:
    """arXiv 2503.11832, eq. 2: squared norm, averaged over real positions."""
    squared = ((_hidden(model, batch, layer) - control) ** 2).sum(-1)
    return squared[batch["attention_mask"].bool()].mean()


def adaptive_rmu(model, ref, batch: Batch, layers: tuple[int, ...], scale: float, unit: torch.Tensor) -> torch.Tensor:
    """arXiv 2408.06223: the target's length is that of the reference's activation, as eq. 2."""
    real, parts = batch["attention_mask"].bool(), []
    for layer in layers:
        with torch.no_grad():
            target = scale * _hidden(ref, batch, layer).norm(dim=-1, keepdim=True) * unit
        parts.append(((_hidden(model, batch, layer) - target) ** 2).sum(-1)[real].mean())
    return torch.stack(parts).mean()


def rerouting(model, ref, batch: Batch, layers: tuple[int, ...]) -> torch.Tensor:
    """arXiv 2406.04313, algorithm 1; GraySwanAI/circuit-breakers src/lorra_circuit_breaker.py: relu of the cosine."""
    real, parts = batch["attention_mask"].bool(), []
    for layer in layers:
        with torch.no_grad():
            before = _hidden(ref, batch, layer)
        parts.append(torch.relu(F.cosine_similarity(_hidden(model, batch, layer), before, dim=-1))[real].mean())
    return torch.stack(parts).mean()


def tether(model, ref, batch: Batch, layers: tuple[int, ...]) -> torch.Tensor:
    """The same algorithm's retain loss, over real positions alone (the code's mean counts padding and embeddings)."""
    real, parts = batch["attention_mask"].bool(), []
    for layer in layers:
        with torch.no_grad():
            before = _hidden(ref, batch, layer)
        parts.append(torch.norm(_hidden(model, batch, layer) - before, dim=-1, p=2)[real].mean())
    return torch.stack(parts).mean()


def hold_code(model, ref, batch: Batch, layer: int) -> torch.Tensor:
    """The same code's retain term: activations of the frozen model, means over everything."""
    with torch.no_grad():
        before = _hidden(ref, batch, layer)
    return F.mse_loss(_hidden(model, batch, layer), before)


def hold_paper(model, ref, batch: Batch, layer: int) -> torch.Tensor:
    """The retain term on the scale of eq. 2."""
    with torch.no_grad():
        before = _hidden(ref, batch, layer)
    squared = ((_hidden(model, batch, layer) - before) ** 2).sum(-1)
    return squared[batch["attention_mask"].bool()].mean()
