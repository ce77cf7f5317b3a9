"""bin/guard export: the guard as one file that other programs steer with."""

import functools
from collections.abc import Callable
from typing import Any

from absl import flags

from vlm_mu_jax.cli import guard_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs

_AS = flags.DEFINE_enum(
    "as",
    "hooks",
    ["hooks", "control_vector"],
    "export: a Python file with forward hooks for transformers, or a GGUF control vector for llama.cpp",
)

NEEDS = (guard_flags.GUARD,)


def prepare() -> Callable[[Any], None]:
    """Reads and checks the flags. Returns what is done with the model."""
    from vlm_mu_jax.files.json_file import read_json
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.steering.export import vector_obstacle
    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guard_options import stored_options
    from vlm_mu_jax.storage import model_folder

    folder, form, out = guard_flags.GUARD.value, _AS.value, guard_flags.OUT.value
    outputs.check_writable(out)
    use = stored_options(folder, guard_folder.read(folder)[1])
    if form == "control_vector" and (reason := vector_obstacle(use)) is not None:
        raise InputError(f"{folder} cannot be a control vector: {reason}")
    hf_config = read_json(model_folder.find(guard_flags.CHECKPOINT.value) / "config.json")
    architecture = hf_config.get("text_config", hf_config).get("model_type", "llama")
    give_guard = functools.partial(load_guard, folder, allow_other_model=guard_flags.ALLOW.value)
    return functools.partial(_run, give_guard, form, architecture, out)


def _run(give_guard: Callable[[Any], Any], form: str, architecture: str, out: str, model: Any) -> None:
    from vlm_mu_jax.steering.export import export_guard

    export_guard(give_guard(model), out, form, architecture)
    print(f"written to {out}")
    if form == "hooks":
        print("use it in Python: hooks = attach(model), with attach from that file; its first lines say more")
    else:
        print(f"use it with llama.cpp: --control-vector {out}")
