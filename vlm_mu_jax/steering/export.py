"""Export: a guard as one file that other programs steer with.

    hooks            a Python file with PyTorch forward hooks, for the exported model in transformers. It holds every
                     operator, gate and scope.
    control_vector   a GGUF file for `--control-vector` of llama.cpp. It holds one fixed addition per layer, at every
                     token, from the second block on. That is the operator `add` without a gate.
    svec             the vector file of IBM's AISteer360. It holds one fixed addition per layer; which tokens get it is
                     said where it is used. That is the operator `add` without a gate.

Source of the second format: ggml-org/llama.cpp pull request 5970. The file has the architecture "controlvector" and
1-D float32 tensors `direction.K`. llama.cpp adds `direction.K` to the output of block K, counted from 0, and never adds
anything to block 0 (`llama_adapter_cvec` in src/llama-adapter.cpp). Its loader reads nothing but the tensors.

Source of the third: IBM/AISteer360@1d7c843:aisteer360/algorithms/state_control/_common/steering_vector.py. The file is
JSON, `{"model_type", "directions": {layer: [K, D]}}`, with K = 1 for a vector that is added to the output of block
`layer`, counted from 0.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.steering.bake import HOOKS, constant_shift, module_settings
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.guard_options import GuardOptions, options_of
from vlm_mu_jax.storage.model_folder import Model

FORMS = ("hooks", "control_vector", "svec")
TOKEN_SCOPES = {"all": "all", "generated": "after_prompt"}  # our scope -> AISteer360's name of it


def export_guard(guard: Guard, out: str | Path, form: str = "hooks", architecture: str = "llama") -> Path:
    """Writes a guard as one file for other programs.

        vlm_mu_jax.export_guard(guard, "guard_hooks.py")
        vlm_mu_jax.export_guard(guard, "guard.gguf", "control_vector")

    Args:
      out: the file to write.
      form: one of `FORMS`.
      architecture: name of the language model's architecture (`architecture_of`), as a note in the vector files.

    Returns:
      `out`.

    Raises:
      InputError: the form is unknown or cannot hold this guard. The message says why and what comes nearest.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r} is unknown; use one of {', '.join(FORMS)}")
    if form != "hooks" and (reason := vector_obstacle(guard.options, form)) is not None:
        raise InputError(f"this guard cannot be a {form}: {reason}")
    with complete_file(out) as partial:
        if form == "hooks":
            partial.write_text(hooks_source(guard), encoding="utf-8")
        elif form == "svec":
            partial.write_text(json.dumps(_svec(guard, architecture)) + "\n", encoding="utf-8")
        else:
            _write_vector(guard, partial, architecture)
    return Path(out)


def architecture_of(model: Model) -> str:
    """Name of the architecture of a model's language tower, as its config.json has it."""
    hf_config = read_json(model.folder / "config.json")
    return hf_config.get("text_config", hf_config).get("model_type", "llama")


def check_exportable(guard: str | Path, form: str) -> None:
    """Raises InputError for a guard folder that this form cannot hold, before anything is loaded."""
    use = options_of(guard)
    if form != "hooks" and (reason := vector_obstacle(use, form)) is not None:
        raise InputError(f"{guard} cannot be a {form}: {reason}")


def usage(guard: Guard, out: str | Path, form: str) -> str:
    """How an exported file is used, in one line."""
    if form == "hooks":
        return "use it in Python: hooks = attach(model), with attach from that file; its first lines say more"
    if form == "control_vector":
        return f"use it with llama.cpp: --control-vector {out}"
    scope = TOKEN_SCOPES[guard.options.scope]
    adapter = f'layer_ids={list(guard.options.layers)}, token_scope="{scope}"'
    return f"use it with AISteer360: ActivationAdapter(AdditiveTransform(SteeringVector.load({str(out)!r})), {adapter})"


def hooks_source(guard: Guard) -> str:
    """The Python file of the form "hooks": the code of guard_hooks.py, the options, and the arrays of used layers."""
    use = module_settings(guard)
    steer_arrays = {"basis_LMD": guard.directions.basis_LMD, "shift_LD": constant_shift(guard)}
    gate_arrays = {"gate_LD": guard.gate_LD, "threshold_L": guard.threshold_L()} if use["gated"] else {}
    gate_layers = {*use["layers"], *use["gate_layers"]}
    arrays = {name: {n: _packed(rows[n]) for n in use["layers"]} for name, rows in steer_arrays.items()}
    arrays |= {name: {n: _packed(rows[n]) for n in sorted(gate_layers)} for name, rows in gate_arrays.items()}
    weights = guard.origin["weights_sha256"]
    return (
        HOOKS.read_text(encoding="utf-8")
        + f"""

WEIGHTS_SHA256 = "{weights}"  # of the model that the guard was extracted from, in vlm_mu_jax's count
USE = {use!r}
ARRAYS = {json.dumps(arrays)}


def attach(model):
    \"\"\"Steers `model` from now on. Returns the hooks; their `remove` ends it.\"\"\"
    import base64

    def unpacked(packed):
        floats = torch.frombuffer(bytearray(base64.b64decode(packed["float32"])), dtype=torch.float32)
        return floats.reshape(packed["shape"])

    arrays = {{name: {{int(n): unpacked(row) for n, row in rows.items()}} for name, rows in ARRAYS.items()}}
    return GuardHooks(model, USE, arrays)
"""
    )


def vector_obstacle(use: GuardOptions, form: str = "control_vector") -> str | None:
    """Why a guard with these options cannot be a vector file of that form, and what comes nearest. None when it can."""
    vector = f"a {form} adds the same vector at every token"
    if use.operator == "ablate":
        return f"{vector}, and ablate removes what is there; nearest: its weights, bin/guard bake"
    if use.operator != "add":
        return f"{vector}, and {use.operator} adds what depends on the state; nearest: --operator=add, or --as=hooks"
    if use.gate != "none":
        return f"{vector}, and has no gate; nearest: --gate=none, which steers harmless requests too, or --as=hooks"
    if use.scope not in (TOKEN_SCOPES if form == "svec" else ("all",)):
        return f"{vector}, and this guard's scope is {use.scope!r}; nearest: --scope=all, or --as=hooks"
    if use.norm_preserving:
        return f"{vector}, and cannot rescale a state; nearest: --nonorm_preserving, or --as=hooks"
    if use.hide_image:
        return f"{vector}, and hides no image; nearest: --nohide_image, whose refusals can be garbled, or --as=hooks"
    if form == "control_vector" and 0 in use.layers:
        return "llama.cpp never steers the output of block 0; nearest: --layers from 1 on, or --as=hooks"
    return None


def _write_vector(guard: Guard, path: Path, architecture: str) -> None:
    try:
        import gguf
    except ImportError:
        raise InputError("a control vector needs the package gguf; pip install gguf") from None
    shift_LD = constant_shift(guard)
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", architecture)
    writer.add_int32("controlvector.layer_count", len(shift_LD) - 1)
    for layer in range(1, len(shift_LD)):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(shift_LD[layer], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _svec(guard: Guard, architecture: str) -> dict[str, Any]:
    shift_LD = constant_shift(guard)
    layers = sorted(guard.options.layers)
    return {"model_type": architecture, "directions": {str(n): [shift_LD[n].astype(float).tolist()] for n in layers}}


def _packed(array: Any) -> dict[str, Any]:
    values = np.ascontiguousarray(array, "<f4")
    return {"shape": list(values.shape), "float32": base64.b64encode(values.tobytes()).decode()}
