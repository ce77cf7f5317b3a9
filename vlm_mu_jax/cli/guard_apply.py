"""bin/guard apply: answers a request file with the guard on."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.files import outputs

if TYPE_CHECKING:
    from vlm_mu_jax.data.records import Records
    from vlm_mu_jax.evaluation.guards.apply_guard import ApplyOptions
    from vlm_mu_jax.evaluation.judges import Judge
    from vlm_mu_jax.steering.guard import Guard
    from vlm_mu_jax.storage.model_folder import Model

_IMAGE = flags.DEFINE_multi_enum("image", ["blank"], ["own", "blank", "none"], "apply: image of every question")

NEEDS = (guard_flags.DATA, guard_flags.GUARD)


def prepare() -> Callable[["Model"], None]:
    """Reads and checks the flags. Returns what is done with the model."""
    from vlm_mu_jax.evaluation.guards.apply_guard import ApplyOptions
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.steering.guard import load_guard

    outputs.check_writable(guard_flags.OUT.value)
    folder = guard_flags.GUARD.value
    guard_folder.check(folder)
    give_guard = functools.partial(load_guard, folder, allow_other_model=guard_flags.ALLOW.value)
    options = ApplyOptions(
        images=_IMAGE.value,
        blank=guard_flags.BLANK.value,
        max_new_tokens=guard_flags.TOKENS.value,
        batch_size=guard_flags.BATCH.value,
    )
    requests = guard_flags.requests()
    return functools.partial(_run, folder, give_guard, requests, guard_flags.judge(), options, guard_flags.OUT.value)


def _run(
    folder: str,
    give_guard: Callable[["Model"], "Guard"],
    requests: "Records",
    judge: "Judge",
    options: "ApplyOptions",
    out: str,
    model: "Model",
) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.answers.answers_file import rewrite
    from vlm_mu_jax.evaluation.guards.apply_guard import apply_guard
    from vlm_mu_jax.steering.guard_folder import validation_ids

    guard, seen = give_guard(model), validation_ids(folder)
    applied = apply_guard(model, guard, requests, judge, options, seen=seen, progress=progress.bar)
    with outputs.complete_file(out) as partial:
        rewrite(partial, applied.answers)
    print(applied.table())
