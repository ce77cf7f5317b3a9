"""bin/guard select: tries settings of a guard and keeps the best."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, guard_extract, guard_flags
from vlm_mu_jax.errors import InputError

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.guards.select_guard import SelectOptions
    from vlm_mu_jax.storage.model_folder import Model

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


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax.evaluation.guards.select_guard import select_guard
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.parallel.distributed import first
    from vlm_mu_jax.steering.guard_folder import META

    out, options = guard_flags.OUT.value, _options_from_flags()
    check_replaceable(out, META)
    requests, judge = guard_flags.requests_from_flags(), guard_flags.judge_from_flags()
    give_guard = guard_extract.guard_or_extraction_from_flags()

    def run(model: "Model") -> None:
        from vlm_mu_jax.reporting.figures.guard_selection import heat_map

        chosen = select_guard(model, give_guard(model), requests, judge, options, progress=cluster.bar())
        if not first():
            return
        if not chosen.acts:
            gain = options.bounds.min_gain
            print(f"no setting refuses {gain:g} more harmful requests within the bounds; the guard does nothing")
        chosen.save(out, {"selection.png": heat_map(chosen.selection)})
        print(chosen.table())
        print(chosen.guard.describe())
        print(f"written to {out}")

    return run


def _options_from_flags() -> "SelectOptions":
    from vlm_mu_jax.evaluation.guards.select_guard import SelectOptions
    from vlm_mu_jax.steering.selection import Bounds

    return SelectOptions(
        operators=_OPERATORS.value,
        strengths=_numbers("strengths", _STRENGTHS.value),
        ranks=[int(rank) for rank in _numbers("ranks", _RANKS.value or ())] or [0],
        layer_sets=_LAYER_SETS.value.split(";") if _LAYER_SETS.value else None,
        gates=_GATES.value,
        scopes=_SCOPES.value,
        bounds=Bounds(_BOUND.value, _RIGHT.value, _KL.value, _GAIN.value),
        validation_share=_SHARE.value,
        max_questions=_LIMIT.value,
        blank=guard_flags.BLANK.value,
        max_new_tokens=guard_flags.TOKENS.value,
        batch_size=guard_flags.BATCH.value,
    )


def _numbers(name: str, texts: Sequence[str]) -> list[float]:
    """The numbers of a list flag. Raises InputError, which names the flag, for anything else."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise InputError(f"--{name}={','.join(texts)}: give numbers separated by commas") from None
