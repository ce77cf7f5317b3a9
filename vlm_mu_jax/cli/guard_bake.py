"""bin/guard bake: the guarded model as a Hugging Face checkpoint."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_flags

if TYPE_CHECKING:
    from vlm_mu_jax.storage.model_folder import Model

_MODULE = flags.DEFINE_bool(
    "module", False, "bake: leave the weights alone and add a module that steers them (trust_remote_code)"
)

NEEDS = (guard_flags.GUARD,)


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.conversion.exporter import MARKER
    from vlm_mu_jax.files.folders import check_replaceable
    from vlm_mu_jax.steering.bake import bake_guard, check_bakeable
    from vlm_mu_jax.storage import model_folder

    out, module = guard_flags.OUT.value, _MODULE.value
    check_replaceable(out, MARKER)
    check_bakeable(guard_flags.GUARD.value, model_folder.find(guard_flags.CHECKPOINT.value), module)
    give_guard = guard_flags.guard_from_flags()

    def run(model: "Model") -> None:
        bake_guard(model, give_guard(model), out, module=module, progress=progress.bar)
        print(f"written to {out}")
        if module:
            print("load it with AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)")

    return run
