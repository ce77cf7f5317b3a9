"""bin/guard apply: answers a request file with the guard on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.files import outputs

if TYPE_CHECKING:
    from vlm_mu_jax.storage.model_folder import Model

_IMAGE = flags.DEFINE_multi_enum("image", ["blank"], ["own", "blank", "none"], "apply: image of every question")

NEEDS = (guard_flags.DATA, guard_flags.GUARD)


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.answers.answers_file import rewrite
    from vlm_mu_jax.evaluation.guards.apply_guard import ApplyOptions, apply_guard
    from vlm_mu_jax.steering.guard_folder import validation_ids

    out, folder = outputs.check_writable(guard_flags.OUT.value), guard_flags.GUARD.value
    give_guard = guard_flags.guard_from_flags()
    options = ApplyOptions(
        images=_IMAGE.value,
        blank=guard_flags.BLANK.value,
        max_new_tokens=guard_flags.TOKENS.value,
        batch_size=guard_flags.BATCH.value,
    )
    requests, judge = guard_flags.requests_from_flags(), guard_flags.judge_from_flags()

    def run(model: "Model") -> None:
        guard, seen = give_guard(model), validation_ids(folder)
        applied = apply_guard(model, guard, requests, judge, options, seen=seen, progress=progress.bar)
        with outputs.complete_file(out) as partial:
            rewrite(partial, applied.answers)
        print(applied.table())

    return run
