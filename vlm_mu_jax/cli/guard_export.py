"""bin/guard export: the guard as one file that other programs steer with."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.files import outputs

if TYPE_CHECKING:
    from vlm_mu_jax.storage.model_folder import Model

_AS = flags.DEFINE_enum(
    "as",
    "hooks",
    ["hooks", "control_vector", "svec"],
    "export: a Python file with forward hooks for transformers, a GGUF control vector for llama.cpp, or a vector file"
    " for AISteer360",
)

NEEDS = (guard_flags.GUARD,)


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax.steering.export import architecture_of, check_exportable, export_guard, usage

    form, out = _AS.value, guard_flags.OUT.value
    outputs.check_writable(out)
    check_exportable(guard_flags.GUARD.value, form)
    give_guard = guard_flags.guard_from_flags()

    def run(model: "Model") -> None:
        guard = give_guard(model)
        export_guard(guard, out, form, architecture_of(model))
        print(f"written to {out}")
        print(usage(guard, out, form))

    return run
