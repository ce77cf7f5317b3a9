"""bin/guard select: tries settings of a guard and keeps the best."""

import dataclasses

from absl import flags

from vlm_mu_jax.cli import guard_extract, guard_flags
from vlm_mu_jax.errors import InputError

_LIMIT = flags.DEFINE_integer("max_questions", None, "select: at most this many requests of each kind", lower_bound=1)
_SHARE = flags.DEFINE_float(
    "validation_share", 0.5, "select: share of the requests, drawn by id, that the choice may see", 0.01, 1.0
)
_OPERATORS = flags.DEFINE_list("operators", ["amplify", "add"], "select: operators to try")
_STRENGTHS = flags.DEFINE_list("strengths", ["0.5", "1", "2", "4"], "select: strengths to try")
_RANKS = flags.DEFINE_list(
    "ranks", None, "select: how many of the guard's directions to use (amplify, transplant, ...; default: all)"
)
_LAYER_SETS = flags.DEFINE_string(
    "layer_sets",
    None,
    "select: layer sets to try, separated by semicolons (default: see docs/guards.md)",
)
_GATES = flags.DEFINE_list(
    "gates", None, "select: gates to try (default: midpoint_blank if the gate sees the image, else midpoint)"
)
_SCOPES = flags.DEFINE_list("scopes", None, "select: scopes to try (default: the guard's own, last and text)")
_BOUND = flags.DEFINE_float(
    "max_over_refusal", 0.05, "select: refusals of harmless requests that are accepted", 0.0, 1.0
)
_RIGHT = flags.DEFINE_float("max_right_loss", 0.05, "select: right answers to harmless requests that may be lost", 0.0)
_KL = flags.DEFINE_float(
    "max_kl", 0.1, "select: divergence (nats) of the first answer token of harmless requests that is accepted", 0.0
)
_GAIN = flags.DEFINE_float(
    "min_gain", 0.05, "select: refusals of harmful requests that a setting must add over no guard", 0.0, 1.0
)

NEEDS = (guard_flags.DATA,)


def check() -> None:
    """What can be wrong before the model is loaded."""
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.steering.artifact import META

    guard_extract.check_settings()
    check_replaceable(guard_flags.OUT.value, META)
    guard_flags.requests()
    guard_flags.judge()


def run(model) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.cli import guard_heatmap, guard_trials
    from vlm_mu_jax.steering import selection

    records, judge = guard_flags.requests(), guard_flags.judge()
    seen = guard_trials.validation_split(records, _SHARE.value, _LIMIT.value)
    guard = guard_extract.guard_or_new(model)
    grid = _grid(model, guard)
    blank, tokens, batch_size = guard_flags.blank(model), guard_flags.TOKENS.value, guard_flags.BATCH.value
    score = guard_trials.scorer(model, guard, seen, judge, blank, tokens, batch_size)
    chosen = selection.select(
        grid,
        score,
        max_over_refusal=_BOUND.value,
        max_right_loss=_RIGHT.value,
        max_kl=_KL.value,
        min_gain=_GAIN.value,
        progress=progress.bar,
    )
    if chosen.best.operator == "off":  # a guard that does nothing, so that what comes next still runs
        guard = guard.using(operator="amplify", strength=0.0, gate="none", component="token", gate_layers=())
        print(f"no setting refuses {_GAIN.value:g} more harmful requests within the bounds; the guard does nothing")
    else:
        guard = guard.using(**dataclasses.asdict(chosen.best))
    split = {
        "judge": judge.name,
        "harmful": len(seen.of_kind("unsafe")),
        "harmless": len(seen.of_kind("safe")),
        "data_sha256": records.sha256,
        "validation_ids": [record.id for record in seen],
    }
    pictures = {"selection.png": guard_heatmap.heat_map(chosen.rows, dataclasses.asdict(chosen.best))}
    guard.save(guard_flags.OUT.value, {"selection": chosen.as_json() | split}, pictures)
    print(guard_trials.table(chosen))
    print(guard_extract.describe(guard))
    print(f"written to {guard_flags.OUT.value}")


def _grid(model, guard) -> list:
    """The candidates of the flags; gates that this guard cannot have are refused here, before anything is tried."""
    from vlm_mu_jax.steering import selection

    sees_image = guard.settings.gate_source == "self" and model.config.vision is not None
    gates = _GATES.value or ["midpoint_blank" if sees_image else "midpoint"]
    layers = model.config.text.L
    grid = selection.candidates(
        layers,
        operators=_OPERATORS.value,
        strengths=_numbers(_STRENGTHS),
        layer_sets=_LAYER_SETS.value.split(";") if _LAYER_SETS.value else selection.default_layer_sets(layers),
        gates=gates,
        scopes=_SCOPES.value or list(dict.fromkeys([guard.settings.scope, "last", "text"])),
        component=guard.settings.gate_source if guard.settings.decide == "example" else "token",
        ranks=[int(rank) for rank in _numbers(_RANKS)] or [0],
    )
    for gate in gates:
        guard.using(gate=gate).threshold_L()
    guard.using(rank=max(candidate.rank for candidate in grid))
    return grid


def _numbers(flag) -> list[float]:
    try:
        return [float(text) for text in flag.value or ()]
    except ValueError:
        raise InputError(f"--{flag.name}={','.join(flag.value)}: give numbers separated by commas") from None
