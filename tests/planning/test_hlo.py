"""Work read from HLO text: products and collectives count as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from vlm_mu_jax.planning.hlo import Module

LAYERS, ROWS, WIDTH = 5, 16, 32


def compiled_work(function, *args):
    return Module(jax.jit(function).lower(*args).compile().as_text()).work()


def scanned(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def test_products_in_a_loop_count_as_often_as_it_turns():
    x, w = jnp.zeros((ROWS, WIDTH)), jnp.zeros((LAYERS, WIDTH, WIDTH))
    once = 2 * ROWS * WIDTH * WIDTH
    assert compiled_work(scanned, x, w).flops == LAYERS * once
    both = compiled_work(jax.grad(lambda x, w: scanned(x, w).sum(), argnums=(0, 1)), x, w)
    assert both.flops == 3 * LAYERS * once


def test_products_with_batch_axes():
    a, b = jnp.zeros((3, 4, 5, 6)), jnp.zeros((3, 4, 6, 7))
    assert compiled_work(lambda a, b: a @ b, a, b).flops == 2 * 3 * 4 * 5 * 6 * 7


# The shape of what the TPU compiler writes: a split all-gather that stands twice under one channel, a loop that XLA
# unrolled by two, a batched product written as a convolution whose window meets padding, buffers in on-chip memory.
TPU = """
HloModule jit_f, num_partitions=8

%body (p: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %two = s32[]{:T(128)} constant(2)
  %p = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %next = s32[]{:T(128)} add(%i, %two)
  %send = (bf16[64,32]{1,0}, bf16[64,32]{1,0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=4, source_target_pairs={{0,1},{1,0}}
  %sent = bf16[64,32]{1,0:S(1)} collective-permute-done(%send)
  %y = bf16[64,32]{1,0:T(8,128)(2,1)} copy(%sent)
  ROOT %out = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) tuple(%next, %y)
}

%condition (p: (s32[], bf16[64,32])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6)
  %p = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

ENTRY %main (a: bf16[8,32], l: f32[4,10,3], r: f32[4,7,3]) -> bf16[64,32] {
  %a = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(0)
  %l = f32[4,10,3]{2,1,0} parameter(1)
  %r = f32[4,7,3]{2,1,0} parameter(2)
  %gather.1 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=3, replica_groups=mesh['x'=8,'y'=1] {'x'}, dimensions={0}
  %gather.2 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=3, replica_groups=mesh['x'=8,'y'=1] {'x'}, dimensions={0}
  %scores = f32[4,10,7]{2,1,0:S(1)} convolution(%l, %r), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
  %sum = f32[4,10,7]{2,1,0} all-reduce(%scores), channel_id=5, replica_groups=[2,4]<=[8], to_apply=%add
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) tuple(%zero, %gather.1)
  %loop = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %end = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def tpu():
    return Module(TPU).work()


def test_a_loop_unrolled_by_two_turns_half_as_often(tpu):
    assert Module(TPU).times()["body"] == 3
    assert tpu.collectives["collective-permute"].count == 3
    assert tpu.collectives["collective-permute"].sent == 3 * 64 * 32 * 2


def test_a_collective_that_stands_twice_counts_once(tpu):
    gather = tpu.collectives["all-gather"]
    assert (gather.count, gather.bytes) == (1, 64 * 32 * 2)
    assert gather.sent == gather.bytes * 7 / 8  # its own eighth is there already


def test_a_reduction_sends_twice(tpu):
    reduce = tpu.collectives["all-reduce"]
    assert reduce.sent == 2 * 4 * 10 * 7 * 4 * 3 / 4  # groups of four


def test_a_batched_product_written_as_convolution(tpu):
    assert tpu.flops == 2 * 4 * 10 * 7 * 3


def test_on_chip_buffers_are_no_traffic(tpu):
    a, gathered, left, right, scores = 8 * 32 * 2, 64 * 32 * 2, 4 * 10 * 3 * 4, 4 * 7 * 3 * 4, 4 * 10 * 7 * 4
    gathers = 2 * (a + gathered)
    in_loop = 3 * (gathered + gathered)  # the permute reads, the copy writes; between them the array is on the chip
    assert tpu.traffic == gathers + (left + right) + scores + in_loop


# Micro-batches in the outer loop, layers in the inner one. Its product holds, as fusions of their own, what cuts its
# weights out of their stack (in another layout), what passes its input on, and what puts its result into a stack of
# results.
NESTED = """
HloModule jit_f

%cut (w: bf16[8,64,64], i: s32[]) -> bf16[64,64] {
  %w = bf16[8,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %tiled = bf16[8,64,64]{2,1,0:T(8,128)} copy(%w)
  %layer = bf16[1,64,64]{2,1,0} dynamic-slice(%tiled, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %plain = bf16[64,64]{1,0} bitcast(%layer)
}

%same (x: bf16[1,16,64]) -> bf16[16,64] {
  %x = bf16[1,16,64]{2,1,0} parameter(0)
  ROOT %plain = bf16[16,64]{1,0} bitcast(%x)
}

%put (kept: bf16[8,16,64], y: bf16[16,64], i: s32[]) -> bf16[8,16,64] {
  %kept = bf16[8,16,64]{2,1,0} parameter(0)
  %y = bf16[16,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %one = bf16[1,16,64]{2,1,0} bitcast(%y)
  ROOT %new = bf16[8,16,64]{2,1,0} dynamic-update-slice(%kept, %one, %i, %zero, %zero)
}

%product (x: bf16[1,16,64], w: bf16[8,64,64], kept: bf16[8,16,64], i: s32[]) -> (bf16[16,64], bf16[8,16,64]) {
  %x = bf16[1,16,64]{2,1,0} parameter(0)
  %w = bf16[8,64,64]{2,1,0} parameter(1)
  %kept = bf16[8,16,64]{2,1,0} parameter(2)
  %i = s32[] parameter(3)
  %left = bf16[16,64]{1,0} fusion(%x), kind=kLoop, calls=%same
  %right = bf16[64,64]{1,0} fusion(%w, %i), kind=kLoop, calls=%cut
  %y = bf16[16,64]{1,0} convolution(%left, %right), dim_labels=bf_io->bf
  %all = bf16[8,16,64]{2,1,0} fusion(%kept, %y, %i), kind=kLoop, calls=%put
  ROOT %both = (bf16[16,64]{1,0}, bf16[8,16,64]{2,1,0}) tuple(%y, %all)
}

%layers (p: (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64])) -> (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64]) {
  %p = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[1,16,64]{2,1,0} get-tuple-element(%p), index=1
  %w = bf16[8,64,64]{2,1,0} get-tuple-element(%p), index=2
  %kept = bf16[8,16,64]{2,1,0} get-tuple-element(%p), index=3
  %done = (bf16[16,64]{1,0}, bf16[8,16,64]{2,1,0}) fusion(%x, %w, %kept, %i), kind=kOutput, calls=%product
  %y = bf16[16,64]{1,0} get-tuple-element(%done), index=0
  %turned = bf16[1,16,64]{2,1,0} bitcast(%y)
  %all = bf16[8,16,64]{2,1,0} get-tuple-element(%done), index=1
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) tuple(%next, %turned, %w, %all)
}

%eight (p: (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64])) -> pred[] {
  %p = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[] constant(8)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%micro (p: (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64])) -> (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64]) {
  %p = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) parameter(0)
  %one = s32[] constant(1)
  %zero = s32[] constant(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[1,16,64]{2,1,0} get-tuple-element(%p), index=1
  %w = bf16[8,64,64]{2,1,0} get-tuple-element(%p), index=2
  %kept = bf16[8,16,64]{2,1,0} get-tuple-element(%p), index=3
  %in = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) tuple(%zero, %x, %w, %kept)
  %inner = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) while(%in), condition=%eight, body=%layers
  %all = bf16[8,16,64]{2,1,0} get-tuple-element(%inner), index=3
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) tuple(%next, %x, %w, %all)
}

%three (p: (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64])) -> pred[] {
  %p = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[] constant(3)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (p: (s32[], bf16[1,16,64], bf16[8,64,64], bf16[8,16,64])) -> bf16[8,16,64] {
  %p = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) parameter(0)
  %outer = (s32[], bf16[1,16,64]{2,1,0}, bf16[8,64,64]{2,1,0}, bf16[8,16,64]{2,1,0}) while(%p), condition=%three, body=%micro
  ROOT %all = bf16[8,16,64]{2,1,0} get-tuple-element(%outer), index=3
}
"""  # noqa: E501


def test_a_layer_cut_out_of_a_stack_within_a_product_is_traffic_once():
    rows, layer = 16 * 64 * 2, 64 * 64 * 2
    work = Module(NESTED).work()
    assert work.traffic == 3 * 8 * (rows + layer + rows + rows)  # input, weights; result, and once more in its stack
    assert work.flops == 3 * 8 * 2 * 16 * 64 * 64


def test_traffic_of_a_compiled_loop_in_a_loop():
    """Weights of a layer are read three times (forward, recomputed, backward), and the CPU also copies them; whole
    stacks would be LAYERS times as much."""
    micro, layers, width = 3, 16, 64

    def loss(w, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return jax.lax.scan(body, x, w)[0].sum()

    def step(w, x):
        add = lambda total, x: (total + jax.grad(loss, argnums=1)(w, x), None)  # noqa: E731
        return jax.lax.scan(add, jnp.zeros(x.shape[1:]), x)[0]

    work = compiled_work(step, jnp.zeros((layers, width, width)), jnp.zeros((micro, 2, width)))
    weights = 4 * micro * layers * width * width
    assert 2 * weights < work.traffic < 10 * weights
