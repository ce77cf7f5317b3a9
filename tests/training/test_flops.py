"""Analytic FLOPs against the products that the compiler really makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.model import flops
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.chips import CHIPS
from vlm_mu_jax.planning.hlo import Module
from vlm_mu_jax.training.flops import mfu, passes, train_step_flops
from vlm_mu_jax.training.robust import Robust
from vlm_mu_jax.training.step import loss_and_gradients
from vlm_mu_jax.training.trainable import Selection, dtypes, split

EVERYTHING = Selection()
HEAD = Selection.of(select=["decoder/head_DV"])
LORA = Selection.of(select=[], lora_rank=4)
DOWN = Selection.of(select=[], slices={"decoder/layers/wdown_LFD": [1]})


def step_rows(objective, cfg=tiny.TEXT, micro=1, batch=4):
    streams = tiny.streams(objective, cfg=cfg, batch=batch)
    rows = {name: stream[0].replace(window_BW=None) for name, stream in streams.items()}
    for name in objective.reference_nll_streams:
        rows[name] = rows[name].replace(reference_nll_B=np.zeros(batch, np.float32))
    return {
        name: jax.tree.map(lambda x: x.reshape(micro, batch // micro, *x.shape[1:]), one) for name, one in rows.items()
    }


def executed(objective, selection, cfg=tiny.TEXT):
    """Products in the compiled gradient, without rematerialisation."""
    params = tiny.params(cfg)
    learned, frozen = split(params, selection, param_specs(cfg), jax.random.key(0), objective.needs_reference)
    rows, constants = step_rows(objective, cfg), objective.constants(cfg.text.D, 0)
    gradient = jax.jit(
        lambda learned, rows: loss_and_gradients(
            learned, frozen, rows, constants, cfg=cfg, objective=objective, selection=selection, dtypes=dtypes(params)
        )
    )
    return Module(gradient.lower(learned, rows).compile().as_text()).work().flops


@pytest.mark.parametrize("selection", [EVERYTHING, HEAD, LORA, DOWN], ids=["everything", "head", "lora", "slice"])
def test_counts_what_is_trained(selection):
    """Attention is counted exactly, while the program also makes the masked half; the rest must agree: a product that
    is not needed (or one that is missing) is a tenth of these steps or more, recomputed logits are less."""
    objective = make_objective("ga")
    counted = train_step_flops(tiny.TEXT, objective, selection, step_rows(objective))
    made = executed(objective, selection)
    rows, text = step_rows(objective), tiny.TEXT.text
    lengths = np.full(4, rows["forget"].batch.tokens_BT.shape[-1])
    attention = text.L * flops.attention_flops(text, lengths)
    logits = flops.head_flops(text, lengths.sum())
    assert counted <= made <= counted + 6 * attention + 2 * logits


def test_order_of_cost():
    """LoRA has no gradient of the base weights; a slice ends the backward pass; RMU needs no layer above its own."""
    npo, rmu = make_objective("npo"), make_objective("rmu", layer=0, retain_weight=0.0, general_weight=0.0)
    full, lora, down, head = (
        train_step_flops(tiny.TEXT, npo, s, step_rows(npo)) for s in (EVERYTHING, LORA, DOWN, HEAD)
    )
    assert full > lora > head and full > down > head
    first = Selection.of(select=[], slices={"decoder/layers/wdown_LFD": [0]})
    assert train_step_flops(tiny.TEXT, rmu, first, step_rows(rmu)) < 0.5 * train_step_flops(
        tiny.TEXT, npo, first, step_rows(npo)
    )


def test_micro_batches_and_rows_change_nothing_but_their_product():
    npo = make_objective("npo")
    one, two = (train_step_flops(tiny.TEXT, npo, EVERYTHING, step_rows(npo, micro=m)) for m in (1, 2))
    assert one == pytest.approx(two)
    assert train_step_flops(tiny.TEXT, npo, EVERYTHING, step_rows(npo, batch=8)) == pytest.approx(2 * one)


def test_known_features_cost_nothing():
    npo = make_objective("npo")
    rows = step_rows(npo, tiny.LLAVA)
    frozen_vision = Selection.of(select=["decoder/.*"])
    known = {}
    for name, row in rows.items():
        features = np.zeros((*row.batch.tokens_BT.shape[:2], tiny.LLAVA.vision.P, tiny.LLAVA.text.D), np.float32)
        known[name] = row.replace(batch=row.batch.replace(pixels_BMHWC=None, features_BQD=features))
    difference = train_step_flops(tiny.LLAVA, npo, frozen_vision, rows) - train_step_flops(
        tiny.LLAVA, npo, frozen_vision, known
    )
    images = 2 * 4  # two streams of four rows
    projector = 2 * tiny.LLAVA.vision.P * sum(flops.projector_sizes(tiny.LLAVA).values())
    assert difference == images * (flops.vision_flops(tiny.LLAVA.vision) + projector)


def test_robust_gradients_are_counted():
    npo = make_objective("npo")
    rows = step_rows(npo)
    plain = train_step_flops(tiny.TEXT, npo, EVERYTHING, rows)
    sam, tamper = (
        train_step_flops(tiny.TEXT, npo, EVERYTHING, rows, Robust(kind, steps=3)) for kind in ("sam", "tamper")
    )
    forget = train_step_flops(tiny.TEXT, npo.part(forgets=True), EVERYTHING, {"forget": rows["forget"]})
    assert sam == pytest.approx(plain + forget)
    assert tamper == pytest.approx(plain + 6 * forget)


def test_a_reference_forward_is_a_pass_without_gradient():
    kl = make_objective("ga", retain_kl=1.0)
    rows = {name: jax.tree.map(lambda x: x[0], row) for name, row in step_rows(kl).items()}
    found = sorted((p.grad, p.first, p.upto, p.images) for p in passes(tiny.TEXT, kl, rows))
    assert found == [(False, 0, 1, True), (True, 0, 1, True), (True, 0, 1, True)]
    found = sorted((p.grad, p.first, p.upto, p.images) for p in passes(tiny.TEXT, kl, rows, shared=1))
    assert found == [(False, 1, 1, False), (True, 0, 1, True), (True, 0, 1, True)]


def test_seven_billion_parameters_by_hand():
    """6 FLOPs per weight and token (a frozen tower 2), attention aside."""
    text = TextConfig(V=32064, D=4096, L=32, N=32, K=32, H=128, F=11008)
    weights = sum(flops.linear_sizes(text).values())
    assert weights == 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert flops.decoder_flops(text, np.array([1])) == 32 * (2 * weights + 4 * 4096)


def test_attention_with_a_window_counts_the_keys_in_it():
    text = TextConfig(V=8, D=4, L=1, N=2, K=2, H=2, F=4, sliding_window=3)
    pairs = sum(min(t + 1, 3) for t in range(10))
    assert flops.attention_flops(text, np.array([10])) == 4 * 2 * 2 * pairs


def test_mfu():
    @dataclasses.dataclass
    class Device:
        device_kind: str

    assert mfu(CHIPS["v5e"].flops, 2.0, [Device("TPU v5 lite")]) == 0.5
    assert mfu(1.0, 1.0, [Device("cpu")]) is None
    assert jnp.isfinite(mfu(1.0, 1.0, [Device("NVIDIA H200")] * 8))


def test_image_tokens_that_read_each_other_are_counted_in_both_directions():
    """By listing the pairs: a picture of 4 tokens in a row of 9, beside a window of 3 and without one."""
    for window in (None, 3):
        cfg = TextConfig(V=9, D=8, L=1, N=2, K=1, H=4, F=8, sliding_window=window, image_run=4)
        far = window or 9
        pairs = [(q, k) for q in range(9) for k in range(9) if q - far < k <= q or 2 <= min(q, k) <= max(q, k) < 6]
        assert flops.attention_flops(cfg, [9], pictures=1) == 4 * 2 * 4 * len(pairs)
        assert flops.decoder_flops(cfg, [9], pictures=1) - flops.decoder_flops(cfg, [9]) > 0
