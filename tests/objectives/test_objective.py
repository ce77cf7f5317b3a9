"""Properties of every objective: padding, accumulation, order, empty masks, shifted logits, and how terms combine."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import toy
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.reading import Read
from vlm_mu_jax.objectives.registry import OBJECTIVES, make_objective
from vlm_mu_jax.objectives.token_losses import KL, NLL

EVERYTHING = {
    "retain_weight": 0.7,
    "retain_kl": 0.5,
    "retain_alpha": 0.3,
    "retain_preference": 0.2,
    "preference_beta": 0.4,
    "hold_layer": 0,
    "general_weight": 1.3,
}
CASES = {name: (name, {}) for name in OBJECTIVES if name != "lm"}  # lm is sft
CASES |= {
    "rmu": ("rmu", {"layer": 0}),
    "adaptive_rmu": ("adaptive_rmu", {"layers": (0,), "scale": 2.0}),
    "rr": ("rr", {"layers": (0,), "horizon": 3}),
    "pdu": ("pdu", {"retain_limit": 0.3, "retain_weight": 2.0}),
    "npo as code": ("npo", {"reading": "as_code", "beta": 0.9}),
    "npo token mean": ("npo", {"reduction": "token_mean"}),
    "ga sequence sum": ("ga", {"reduction": "sequence_sum"}),
    "ceu token mean": ("ceu", {"reduction": "token_mean"}),
    "dpo token mean": ("dpo", {"reduction": "token_mean", "scaled": False}),
    "rmu answer only": ("rmu", {"layer": 0, "positions": ("answer",), "distribution": "normal"}),
    "simnpo and everything": ("simnpo", EVERYTHING),
    "undial and everything": ("undial", EVERYTHING),
    "rmu and everything": ("rmu", EVERYTHING | {"layer": 0, "reading": "as_code", "positions": ("prompt", "answer")}),
}


@pytest.fixture(params=CASES, scope="module")
def objective(request):
    name, options = CASES[request.param]
    return make_objective(name, **options)


@pytest.fixture(scope="module")
def whole(objective):
    return toy.loss_and_gradient(objective, toy.parts(objective))


def assert_same(got, want):
    for one, other in zip(got[:2], want[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    assert got[2].keys() == want[2].keys()
    for name in got[2]:
        np.testing.assert_allclose(got[2][name], want[2][name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_it_moves_and_its_loss_is_the_sum_of_its_parts(objective, whole):
    loss, gradient, metrics = whole
    assert np.isfinite(loss) and np.abs(gradient).max() > 1e-3 and metrics
    parts = [part for part in (objective.part(True), objective.part(False)) if part is not None]
    streams = toy.parts(objective)
    found = [toy.loss_and_gradient(p, {n: s for n, s in streams.items() if n in p.reads(streams)}) for p in parts]
    np.testing.assert_allclose(loss, sum(one[0] for one in found), rtol=1e-5)
    np.testing.assert_allclose(gradient, sum(one[1] for one in found), rtol=2e-5, atol=1e-6)


def test_padding_and_the_order_of_rows_change_nothing(objective, whole):
    order = np.array([2, 0, 3, 1])
    moved = {name: part.take(order).padded(9) for name, part in toy.parts(objective).items()}
    assert_same(toy.loss_and_gradient(objective, moved), whole)


def test_micro_batches_with_unequal_token_counts_add_up_to_the_whole_batch(objective, whole):
    if objective.couples_batch:
        pytest.skip("one sigmoid per batch: the loop refuses to accumulate it")
    assert_same(toy.loss_and_gradient(objective, toy.parts(objective), micro=2), whole)


@pytest.mark.parametrize("empty", ["every row", "a micro-batch"])
def test_rows_without_loss_tokens_leave_loss_and_gradient_finite(objective, empty):
    streams = toy.parts(objective)
    for part in streams.values():
        part.mask[slice(None) if empty == "every row" else slice(2)] = False
    loss, gradient, metrics = toy.loss_and_gradient(objective, streams, 2 if empty == "a micro-batch" else 1)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and all(np.isfinite(x) for x in metrics.values())


def test_a_constant_added_to_all_logits_changes_nothing(objective, whole):
    """Every objective is a function of the model's distribution (or of its activations)."""
    got = toy.loss_and_gradient(objective, toy.parts(objective), raised=11.0)
    np.testing.assert_allclose(got[0], whole[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], whole[1], rtol=1e-3, atol=2e-5)


def test_masked_out_tokens_have_no_gradient_in_token_losses(objective):
    """A token that stands nowhere near a loss token never moves."""
    streams = toy.parts(objective)
    if any(read.layers for read in objective.reads(streams).values()):
        pytest.skip("activations are pushed at prompt positions too")
    lonely = 3
    for part in streams.values():
        part.tokens[part.tokens == lonely] = 4
        part.tokens[:, 0] = lonely
    assert np.abs(toy.loss_and_gradient(objective, streams)[1][lonely]).max() == 0


def test_general_data_are_optional(objective, whole):
    streams = toy.parts(objective)
    if "general" not in streams:
        assert not objective.optional_streams
        return
    without = {name: part for name, part in streams.items() if name != "general"}
    loss, _, metrics = toy.loss_and_gradient(objective, without)
    weight = next(weight for weight, term in objective.terms if "general" in term.reads())
    np.testing.assert_allclose(loss, whole[0] - weight * whole[2]["general_nll"], rtol=1e-4, atol=1e-5)
    assert "general_nll" not in metrics


def test_reads_of_one_stream_are_merged_and_ask_for_each_thing_once():
    objective = make_objective("simnpo", **EVERYTHING)
    retain = objective.reads(toy.parts(objective))["retain"]
    assert retain == Read((NLL(), KL()), layers=(0,), reference=True) and objective.needs_reference
    assert Read(layers=(2,)) | Read(layers=(1, 2)) == Read(layers=(1, 2))


def test_an_objective_says_what_it_needs():
    npo = make_objective("npo", reading="as_code")
    assert npo.streams == ("forget", "retain") and npo.optional_streams == ("general",)
    assert npo.reference_nll_streams == ("forget", "retain") and npo.couples_batch and not npo.needs_reference
    assert make_objective("npo", retain_kl=1.0).needs_reference
    assert make_objective("rmu", layer=1).needs_reference
    assert not make_objective("rmu", layer=1, retain_alpha=0.0).needs_reference
    assert make_objective("dpo").reference_nll_streams == ("preferred", "forget")
    assert make_objective("ga").streams == ("forget",)
    assert make_objective("sft").part(forgets=True) is None
    assert dataclasses.is_dataclass(Objective) and hash(npo) == hash(make_objective("npo", reading="as_code"))


def test_terms_weigh_in_linearly():
    objective = make_objective("npo", **EVERYTHING)
    double = Objective(tuple((2 * weight, term) for weight, term in objective.terms))
    one, two = (toy.loss_and_gradient(o, toy.parts(objective)) for o in (objective, double))
    np.testing.assert_allclose(two[0], 2 * one[0], rtol=1e-5)
    np.testing.assert_allclose(two[1], 2 * jnp.asarray(one[1]), rtol=1e-5, atol=1e-6)
