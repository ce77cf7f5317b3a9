"""Objectives by name: options become terms, mistakes are named."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.keep import CE, Constrained, KLToReference
from vlm_mu_jax.objectives.npo import NPO, Preference
from vlm_mu_jax.objectives.registry import FORGET, OBJECTIVES, make_objective, options
from vlm_mu_jax.objectives.rerouting import Rerouting, Tether
from vlm_mu_jax.objectives.rmu import RMU, Hold


def terms(name, **given):
    return {type(term): (weight, term) for weight, term in make_objective(name, **given).terms}


def required(name):
    return {
        key: {int: 1, float: 0.3, tuple: (0, 1)}[option.kind]
        for key, option in options(name).items()
        if option.required
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_defaults_that_work(name):
    objective = make_objective(name, **required(name))
    assert objective.streams and hash(objective) == hash(make_objective(name, **required(name)))
    several = dict.fromkeys(("rr", "adaptive_rmu"), {"layers": (0, 1)})
    assert required(name) == ({"rmu": {"layer": 1}, "pdu": {"retain_limit": 0.3}} | several).get(name, {})


@pytest.mark.parametrize("name", FORGET)
def test_every_forget_term_stands_alone_and_with_every_way_to_keep(name):
    off = dict.fromkeys(("retain_weight", "retain_kl", "retain_alpha", "retain_preference", "general_weight"), 0.0)
    given = {key: value for key, value in required(name).items() if key != "retain_limit"}
    if name != "pdu":
        alone = make_objective(name, **given, **off)
        assert [type(term) for _, term in alone.terms] == [FORGET[name]] and "retain" not in alone.streams
    all_on = dict.fromkeys(off, 0.5) | {"hold_layer": 0, "preference_beta": 0.3, "retain_limit": 1.0}
    found = terms(name, **given, **all_on)
    assert found.keys() == {FORGET[name], Constrained, CE, KLToReference, Hold, Preference}
    assert found[Constrained][1] == Constrained(1.0, start=0.5) and found[CE][1].stream == "general"


def test_keep_terms_take_after_their_forget_term():
    found = terms("npo", reading="as_code", beta=0.9, scaled=False)
    assert found[Preference] == (1.0, Preference(0.9, "batch_token_mean", False))
    assert Preference not in terms("npo") and terms("npo", retain_preference=0.5)[Preference][1].beta == 0.1
    found = terms("rmu", layer=2, reading="as_code", positions=["prompt"])
    assert found[Hold] == (1.0, Hold((2,), "mean", ("prompt",))) and found[RMU][1].positions == ("prompt",)
    assert terms("rmu", layer=2, hold_layer=1)[Hold][1].layers == (1,)
    assert terms("adaptive_rmu", layers=[2, 1], positions=["prompt"])[Hold][1] == Hold((1, 2), "sum", ("prompt",))
    found = terms("rr", layers=(2,), horizon=10)
    assert found.keys() == {Rerouting, Tether} and found[Tether] == (1.0, Tether((0, 1, 2), horizon=10))
    assert terms("npo", forget_weight=2.0)[NPO][0] == 2.0


def test_names_that_differ_in_defaults():
    assert make_objective("ga").streams == ("forget",)
    assert make_objective("graddiff").streams == ("forget", "retain")
    assert make_objective("graddiff", retain_kl=1.0, retain_weight=0.0).needs_reference
    assert terms("idkdpo")[FORGET["dpo"]][1].preferred == "idk"
    assert make_objective("lm") == make_objective("sft")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nope", {}, "objective.name"),
        ("npo", {"betta": 1.0}, "objective.betta"),
        ("sft", {"beta": 1.0}, "none"),
        ("rmu", {}, "objective.layer is required"),
        ("pdu", {}, "objective.retain_limit is required"),
        ("rr", {"layers": ()}, "objective.layers names no"),
        ("rr", {"layers": (0,), "horizon": 0}, "objective.horizon"),
        ("adaptive_rmu", {"layers": (0,), "positions": ("x",)}, "objective.positions"),
        ("npo", {"retain_alpha": 1.0}, "objective.hold_layer is required"),
        ("wga", {"retain_preference": 1.0}, "objective.preference_beta is required"),
        ("npo", {"retain_limit": 1.0, "dual_rate": -1.0}, "dual_rate"),
        ("npo", {"retain_weight": -1.0}, "objective.retain_weight must be at least 0"),
        ("npo", {"forget_weight": -1.0}, "objective.forget_weight must be at least 0"),
        ("ga", {"reduction": "sum"}, "objective.reduction"),
        ("dpo", {"reduction": "batch_token_mean"}, "objective.reduction"),
        ("dpo", {"preferred": "silence"}, "objective.preferred"),
    ],
)
def test_mistakes_name_the_option(name, given, message):
    with pytest.raises(InputError, match=message):
        make_objective(name, **given)
