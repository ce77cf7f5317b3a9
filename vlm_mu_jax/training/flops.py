"""Analytic FLOPs of one training step, of what is really trained: the numerator of MFU.

What the objective reads of each stream decides which forward passes there are. A pass costs its forward products. Its
backward pass adds one product for the gradient of each trained weight, and one for the gradient of each activation with
something trained before it. This has consequences:

  a frozen vision tower has no backward pass, and image features that are given cost nothing
  LoRA has no gradient of the base weights
  RMU's forward pass ends at its layer, and its backward pass at the first trained slice
  activations and token losses of one stream share a pass, because the first are on the way to the second
  blocks that compute the same before training and now run once
  logits are made at the positions of the rows' window alone

Not counted is what rematerialisation computes again (the difference between MFU and hardware utilisation), and the
reference that is computed once before training. Padding is counted: a padded position costs what a real one does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.model import flops, lora
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.vlm import Batch, param_specs
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.parallel.chips import chip_of
from vlm_mu_jax.training.latent import RELEARN
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.trainable import Selection, selected_paths, shared_blocks

# Parts of a decoder block in the order of the forward pass; None is the attention itself.
_STAGES: tuple[tuple[str, ...] | None, ...] = (
    ("attn_norm_LD",),
    ("wq_LDNH", "wk_LDKH", "wv_LDKH", "bq_LNH", "bk_LKH", "bv_LKH"),
    None,
    ("wo_LNHD", "bo_LD"),
    ("mlp_norm_LD",),
    ("wgate_LDF", "wup_LDF", "bgate_LF", "bup_LF"),
    ("wdown_LFD", "bdown_LD"),
)
_PREFIX = lora.PREFIX


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
      batch: its rows.
      first, upto: the first and the last decoder block that it runs.
      logits: positions per row whose logits are made.
      grad: whether it runs the weights in training and is differentiated; else it runs those before training.
      images: whether it encodes the images.
    """

    batch: Batch
    first: int
    upto: int
    logits: int
    grad: bool
    images: bool = True


def mfu(step_flops: float, seconds: float, devices: list[jax.Device]) -> float | None:
    """Model FLOPs utilisation, 0..1: step_flops / (seconds * peak of all devices). None when the peak is not known."""
    chip = chip_of(devices[0].device_kind)
    return None if chip is None else step_flops / (seconds * chip.flops * len(devices))


def train_step_flops(
    cfg: ModelConfig, objective: Objective, selection: Selection, rows: Mapping[str, Any], robust: Robust = PLAIN
) -> float:
    """FLOPs of one optimizer update on all devices together.

    Args:
      rows: what the step gets: stream name -> `TrainBatch` of arrays or ShapeDtypeStructs that lead with
        [micro-batches, rows].
    """
    micro_batches = jax.tree.leaves(rows)[0].shape[0]
    one = {name: jax.tree.map(_without_lead, batch) for name, batch in rows.items()}
    shared = shared_blocks(selection, param_specs(cfg))
    cost = _Cost(cfg, selection)
    gradients = _gradients(objective, robust)
    return micro_batches * sum(n * cost.of(p) for n, part in gradients for p in passes(cfg, part, one, shared))


def _gradients(objective: Objective, robust: Robust) -> list[tuple[int, Objective]]:
    """(times, objective) of the gradients that `robust_gradient` takes in one step."""
    if robust.kind == "none":
        return [(1, objective)]
    keep = objective.part(forgets=False)
    found = [] if keep is None else [(1, keep)]
    if robust.kind in ("tamper", "latent"):  # latent differentiates by activations: what trains is counted too much
        found.append((robust.steps, RELEARN))
    times = {"sam": 2, "tamper": robust.steps + 1, "latent": 1}[robust.kind]
    return [*found, (times, objective.part(forgets=True))]


def passes(cfg: ModelConfig, objective: Objective, rows: Mapping[str, Any], shared: int | None = None) -> list[Pass]:
    """Every forward pass of the objective over these rows (leaves lead with [rows]).

    Args:
      shared: leading blocks that are the same under both weights, as `trainable.shared_blocks` says.
    """
    found = []
    for name, read in objective.reads(rows).items():
        row, last = rows[name], cfg.text.L - 1
        width = (row.batch.tokens_BT if row.window_BW is None else row.window_BW).shape[1]
        end = last if read.tokens else max(read.layers, default=None)
        if end is not None:
            found.append(Pass(row.batch, 0, end, width if read.tokens else 0, grad=True))
        if read.needs_reference:
            logits = any(loss.uses_reference for loss in read.tokens)
            end = last if logits else max(read.layers)
            found.append(Pass(row.batch, shared or 0, end, width * logits, grad=False, images=shared is None))
    return found


def _without_lead(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _pictures(batch: Batch) -> int:
    """Pictures of a row, of a model that encodes each whole."""
    images = batch.pixels_BMHWC if batch.vision_BMPE is None else batch.vision_BMPE
    return 0 if images is None else images.shape[1]


class _Cost:
    """FLOPs of passes under one selection."""

    def __init__(self, cfg: ModelConfig, selection: Selection) -> None:
        self.cfg = cfg
        specs = param_specs(cfg)
        self.whole = set(selected_paths(selection, specs))
        self.slices = {path: set(layers) for path, layers in selection.slices}
        self.rank = selection.lora_rank
        self.adapted = set(lora.adapted_linears(specs, selection.lora_targets)) if self.rank else set()
        self.vision_trains = any(path.startswith("vision/") for path in self.whole) or any(
            path.startswith("vision/") for path in self.slices
        )

    def of(self, p: Pass) -> float:
        """Forward and (when it is differentiated) backward of one pass."""
        rows, length = p.batch.tokens_BT.shape
        total, trained = self._images(p, rows) if p.images else (0.0, False)
        trained = trained or "decoder/embed_VD" in self.whole
        lengths = np.full(rows, length)
        sizes = flops.linear_sizes(self.cfg.text)
        for layer in range(p.first, p.upto + 1):
            for stage in _STAGES:
                if stage is None:
                    one = flops.attention_flops(self.cfg.text, lengths, layer, rows * _pictures(p.batch))
                    total += one * (3 if p.grad and trained else 1)
                    continue
                before = trained
                for name in stage:
                    total += rows * length * self._linear(name, layer, sizes.get(name, 0), p, before)
                    trained = trained or self._trains(name, layer) or name in self.adapted
        return total + self._head(rows * p.logits, p, trained)

    def _trains(self, name: str, layer: int) -> bool:
        path = _PREFIX + name
        return path in self.whole or layer in self.slices.get(path, ())

    def _linear(self, name: str, layer: int, size: int, p: Pass, before: bool) -> float:
        """FLOPs per token of one linear map; `before`: something trains in front of it."""
        products = 1 + (p.grad and before) + (p.grad and self._trains(name, layer))
        if not (p.grad and name in self.adapted):
            return 2.0 * size * products
        wide, narrow = self._pair(name)  # y + (x a) b: the gradient of x a is always needed, that of x when `before`
        pair = (wide + narrow) + (2 * narrow + wide) + before * wide
        return 2.0 * size * products + 2.0 * self.rank * pair

    def _pair(self, name: str) -> tuple[int, int]:
        """Input and output width of a linear."""
        t = self.cfg.text
        widths = {"wq": (t.D, t.N * t.H), "wk": (t.D, t.K * t.H), "wv": (t.D, t.K * t.H), "wo": (t.N * t.H, t.D)}
        widths |= {"wgate": (t.D, t.F), "wup": (t.D, t.F), "wdown": (t.F, t.D)}
        return widths[name.partition("_")[0]]

    def _head(self, positions: int, p: Pass, trained: bool) -> float:
        path = "decoder/embed_VD" if self.cfg.text.tie_embeddings else "decoder/head_DV"
        before = trained or "decoder/norm_D" in self.whole
        products = 1 + (p.grad and before) + (p.grad and path in self.whole)
        return products * flops.head_flops(self.cfg.text, positions)

    def _images(self, p: Pass, rows: int) -> tuple[float, bool]:
        """FLOPs of vision tower and projector, and whether anything there trains."""
        known = p.batch.vision_BMPE is not None
        images = p.batch.vision_BMPE if known else p.batch.pixels_BMHWC
        if self.cfg.vision is None or images is None or p.batch.features_BQD is not None:
            return 0.0, False
        total, trained = 0.0, False
        tokens = rows * self.cfg.vision.tokens(images.shape[1])
        if not known:
            times = 3 if p.grad and self.vision_trains else 1
            total = rows * flops.vision_flops(self.cfg.vision, images.shape[1]) * times
            trained = self.vision_trains
        for name, size in flops.projector_sizes(self.cfg).items():
            trains = f"projector/{name}" in self.whole
            total += 2.0 * tokens * size * (1 + (p.grad and trained) + (p.grad and trains))
            trained = trained or trains or f"projector/b{name[1]}_D" in self.whole
        return total, trained
