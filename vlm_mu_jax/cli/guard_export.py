"""bin/guard export: the guard as one file that other programs steer with."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.errors import InputError
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
    from vlm_mu_jax.files.json_file import read_json
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.steering.export import export_guard, vector_obstacle
    from vlm_mu_jax.steering.guard_options import stored_options
    from vlm_mu_jax.storage import model_folder

    folder, form, out = guard_flags.GUARD.value, _AS.value, guard_flags.OUT.value
    outputs.check_writable(out)
    use = stored_options(folder, guard_folder.read(folder)[1])
    if form != "hooks" and (reason := vector_obstacle(use, form)) is not None:
        raise InputError(f"{folder} cannot be a {form}: {reason}")
    hf_config = read_json(model_folder.find(guard_flags.CHECKPOINT.value) / "config.json")
    architecture = hf_config.get("text_config", hf_config).get("model_type", "llama")
    give_guard = guard_flags.guard_from_flags()

    def run(model: "Model") -> None:
        guard = give_guard(model)
        export_guard(guard, out, form, architecture)
        print(f"written to {out}")
        print(_how(form, out, guard.options.scope, guard.options.layers))

    return run


def _how(form: str, out: str, scope: str, layers: Sequence[int]) -> str:
    """How the file is used, in one line."""
    from vlm_mu_jax.steering.export import TOKEN_SCOPES

    if form == "hooks":
        return "use it in Python: hooks = attach(model), with attach from that file; its first lines say more"
    if form == "control_vector":
        return f"use it with llama.cpp: --control-vector {out}"
    adapter = f'layer_ids={list(layers)}, token_scope="{TOKEN_SCOPES[scope]}"'
    return f"use it with AISteer360: ActivationAdapter(AdditiveTransform(SteeringVector.load({out!r})), {adapter})"
