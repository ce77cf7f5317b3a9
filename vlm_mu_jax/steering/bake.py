"""Baking: a guard as part of the weights, in a Hugging Face checkpoint that needs none of our code.

Algebra allows it for two guards, both without a gate and on all positions:

    ablate   Every matrix that writes to the residual stream loses the subspace, W (I - V^T V). These are the embedding,
             the projector's output (image tokens enter the stream there), the outputs of attention and MLP, and their
             biases.
    add      A bias of the MLP's output at the steered layers. Llama configs know one (`mlp_bias`).

No other guard can be weights. A gate depends on the input. A component scaled at one layer is no linear change of any
weight, because the readers of the stream see it through an RMSNorm. Such a guard is exported with a small module for
`trust_remote_code` that applies it (`export_with_module`), or as a file of its own (`export`).
"""

import re
from pathlib import Path

import numpy as np

from vlm_mu_jax.conversion import exporter, names
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model import vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering import operators
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.guard_options import GuardOptions, options_of
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.model_folder import Model

MODULE, HOOKS = (Path(__file__).with_name(f"{name}.py.txt") for name in ("guarded_model", "guard_hooks"))
_CLASS = re.compile(r"[A-Za-z]\w*ForConditionalGeneration")  # it becomes a part of the module's code


def obstacle(use: GuardOptions, hf_config: dict) -> str | None:
    """Why a guard with these options cannot be weights of this checkpoint. None when it can."""
    text = hf_config.get("text_config", hf_config)
    if use.gate != "none":
        return "its gate depends on the input"
    if use.operator not in ("ablate", "add") or use.norm_preserving or use.component != "token":
        return "behind an RMSNorm it is no linear change of any weight"
    if use.scope != "all":
        return f"weights act on all positions, not on its scope {use.scope!r}"
    if use.hide_image:
        return "no weights hide an image from the answer"
    if use.operator == "ablate" and any(part.get("tie_word_embeddings") for part in (hf_config, text)):
        return "its embedding is the output matrix as well (tie_word_embeddings)"
    if use.operator == "add" and text.get("model_type") != "llama":
        return f"transformers has no bias at the MLP of {text.get('model_type')!r}, only of llama"
    return None


def check_bakeable(guard: str | Path, checkpoint: Path, module: bool = False) -> None:
    """Raises InputError for a guard folder that cannot be exported with this model folder, before anything is loaded.

    module: the guard does not become weights.
    """
    use = options_of(guard)
    reason = obstacle(use, read_json(checkpoint / "config.json"))
    if reason is not None and not module:
        raise InputError(f"{guard} cannot be baked into weights: {reason}; add --module")


def bake(guard: Guard, params: dict, hf_config: dict) -> tuple[dict, dict]:
    """Guarded parameters, and the Hugging Face config that fits them. The inputs are left as they are.

    The logits equal those of the guarded model up to the rounding of the weights' dtype.

    Raises InputError when `obstacle` names one.
    """
    reason, cfg = obstacle(guard.options, hf_config), None
    if reason is None:
        cfg = from_hf(hf_config)
        reason = "what its blocks write passes a norm first" if cfg.text.post_norms else None
    if reason is not None:
        raise InputError(f"this guard cannot be baked into weights: {reason}; use bin/guard bake --module")
    steer = guard.as_steer()
    if guard.options.operator == "ablate":
        writes = () if cfg.vision is None else cfg.vision.connector.writes
        return _without(params, np.asarray(steer.basis_LMD[0], np.float64), writes), hf_config
    return _with_bias(params, np.asarray(steer.shift), hf_config)


def _without(params: dict, basis_MD: np.ndarray, connector: tuple[str, ...]) -> dict:
    """Takes the subspace out of everything that writes to the residual stream. D is the last axis of each leaf.

    connector: its parameters that write there.
    """

    def removed(parts: dict, names: tuple[str, ...]) -> dict:
        return {**parts, **{name: _project(parts[name], basis_MD) for name in names if name in parts}}

    decoder = removed(params["decoder"], ("embed_VD",))
    decoder["layers"] = removed(decoder["layers"], ("wo_LNHD", "bo_LD", "wdown_LFD", "bdown_LD"))
    baked = {**params, "decoder": decoder}
    if "projector" in params:
        baked["projector"] = removed(params["projector"], connector)
    return baked


def _project(leaf, basis_MD: np.ndarray) -> np.ndarray:
    w = np.asarray(leaf)
    wide = w.astype(np.float32)
    return (wide - (wide @ basis_MD.T.astype(np.float32)) @ basis_MD.astype(np.float32)).astype(w.dtype)


def _with_bias(params: dict, shift_LD: np.ndarray, hf_config: dict) -> tuple[dict, dict]:
    layers = params["decoder"]["layers"]
    L, _, F = layers["wgate_LDF"].shape
    dtype = np.asarray(layers["wdown_LFD"][:1, :1, :1]).dtype
    old_LD = np.asarray(layers.get("bdown_LD", np.zeros_like(shift_LD))).astype(np.float32)
    biases = {"bgate_LF": np.zeros((L, F), dtype), "bup_LF": np.zeros((L, F), dtype)}
    biases = {name: layers.get(name, zeros) for name, zeros in biases.items()}
    biases["bdown_LD"] = (old_LD + shift_LD).astype(dtype)
    config = dict(hf_config)
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "mlp_bias": True}
    else:
        config["mlp_bias"] = True
    return {**params, "decoder": {**params["decoder"], "layers": {**layers, **biases}}}, config


def bake_guard(
    model: Model, guard: Guard, out: str | Path, *, module: bool = False, progress: Progress | None = None
) -> Path:
    """Writes the guarded model as a Hugging Face folder that needs none of our code.

        vlm_mu_jax.bake_guard(model, guard, "runs/guarded_hf", module=True)

    Args:
      out: the folder to write.
      module: leaves the weights alone and adds a module that steers them, loaded with `trust_remote_code=True`. The
        guard becomes a part of the weights otherwise, which is possible for few guards (see the module's docstring).

    Returns:
      `out`.

    Raises:
      InputError: this guard cannot be exported this way; the message says why and what can.
    """
    return (export_with_module if module else export_baked)(guard, model, out, progress=progress)


def export_baked(guard: Guard, model: Model, out: str | Path, progress: Progress | None = None) -> Path:
    """Writes `model` with `guard` in its weights, as an ordinary Hugging Face folder. Raises InputError as `bake`."""
    folder = Path(model.folder)
    params, hf_config = bake(guard, model.params, read_json(folder / "config.json"))
    return exporter.export_params(out, params, hf_config, files_from=folder, progress=progress)


def export_with_module(guard: Guard, model: Model, out: str | Path, progress: Progress | None = None) -> Path:
    """Writes `model` unchanged, as a Hugging Face folder with a module that steers it (see guarded_model.py.txt).

    AutoModelForImageTextToText loads the folder, with trust_remote_code=True. The module extends the class that
    config.json names.

    Raises InputError for a model without images, or without the name of its class.
    """
    folder = Path(model.folder)
    hf_config = read_json(folder / "config.json")
    base = (hf_config.get("architectures") or [""])[0]
    if model.config.vision is None or not _CLASS.fullmatch(str(base)):
        what = f"config.json names no vision-language class of transformers ({base!r})"
        raise InputError(f"{folder}: {what}, which the module extends; use the guard with bin/generate --guard")
    auto = {"AutoModelForImageTextToText": f"guarded_model.Guarded{base}"}
    hf_config |= {"auto_map": auto, "vlm_guard": module_settings(guard)}
    dialect = names.for_adapters(model_folder.read_settings(folder)["dialect"], vlm.param_specs(model.config))
    with complete_folder(out, marker=exporter.MARKER) as partial:
        # transformers respells the keys of the classes it knows; this one is new to it and has its modules' names
        exporter.export_params(
            partial / "hf",
            model.params,
            hf_config,
            files_from=folder,
            options=exporter.ExportOptions(dialect=dialect.name),
            progress=progress,
        )
        for path in (partial / "hf").iterdir():
            path.rename(partial / path.name)
        (partial / "hf").rmdir()
        (partial / "guarded_model.py").write_text(MODULE.read_text().replace("BaseClass", base))
        (partial / "guard_hooks.py").write_text(HOOKS.read_text())
        guard.save(partial / "guard", arrays={"shift_LD": constant_shift(guard)})
        for name in ("guard.safetensors", "guard.json"):
            (partial / "guard" / name).rename(partial / name)
        (partial / "guard").rmdir()
    return Path(out)


def module_settings(guard: Guard) -> dict:
    """What guard_hooks.py reads of a guard's options, next to its arrays. JSON-ready.

    Raises InputError for a linear gate or an adaptive component, which the hooks do not know.
    """
    use = guard.options
    if use.component == "adaptive":
        raise InputError("hooks add a component, not AdaSteer's coefficients; nearest: --component=text")
    if use.gate == "linear":
        raise InputError("hooks know gates that are open or closed, not gate linear; nearest: --gate=midpoint")
    if use.erased_words:
        raise InputError(
            "hooks read a prompt's text once, not without its first words as well; nearest: --erased_words=0,"
            " whose gate a word in front of a request can close"
        )
    reads = "text" if use.first_pass_reads_text else "self"
    alpha = operators.FIXED_STRENGTH.get(use.operator, use.strength)
    moved = use.component != "token" and use.operator != "add"
    if use.operator == "transplant":
        strength = -alpha
    else:
        strength = 0.0 if moved or use.operator == "add" else alpha
    return {
        "layers": list(use.layers),
        "gate_layers": list(use.gate_layers or use.layers),
        "strength": strength,
        "component_scale": alpha if moved else 0.0,
        "gated": use.gate != "none",
        "everywhere": use.operator == "ablate",
        "first_pass": reads if use.needs_first_pass else None,
        "quorum": use.quorum,
        "norm_preserving": use.norm_preserving,
        "scope": use.scope,
        "hide_image": use.hide_image,
    }


def constant_shift(guard: Guard) -> np.ndarray:
    """What `add` adds, float [L, D]. Zero for every other operator."""
    use, basis_LD = guard.options, guard.directions.basis_LMD[:, 0]
    if use.operator != "add":
        return np.zeros(basis_LD.shape, np.float32)
    return np.asarray(operators.add(basis_LD[:, None], use.strength, guard.unit_L(), use.layers).shift)
