"""Our LoRA pairs as a PEFT adapter folder (see peft.py), which `peft` loads over the base model."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.peft import CONFIG, PREFIX, WEIGHTS, Adapter, spellings
from vlm_mu_jax.conversion.replacing import MARKER
from vlm_mu_jax.conversion.tensor_files import opener
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model import lora as lora_lib
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model import vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.storage import model_folder, origin

FOLDER = "adapter"  # in the workdir of a LoRA run


def write_adapter(
    out: str | Path,
    pairs: params_lib.Params,
    alpha: float,
    whole: Mapping[str, tuple[int, ...] | None],
    read_leaf: Callable[[str], np.ndarray],
    specs: params_lib.Specs,
    dialect: names.Dialect,
    base: str | None,
) -> Path:
    """Writes LoRA pairs as an adapter folder that `peft` loads over the base model.

    In a job of several processes every process must call it. Process 0 writes.

    Args:
      out: the folder. An earlier adapter there is replaced.
      pairs: {"decoder": {"layers": {name: {"a", "b"}}}}, shapes as in `model/lora.py`.
      alpha: the pairs are scaled by alpha / rank.
      whole: parameters that were trained without LoRA, and which layers of a stack (None: all). Their modules are
        stored whole, as modules_to_save.
      read_leaf: path of a parameter -> its trained value. It is called for modules in `whole` only.
      specs: parameters of the model.
      dialect: the spelling of module names, that of the class which loads the adapter.
      base: name of the base model, for adapter_config.json.

    Raises:
      InputError: a module is trained both ways, or a trained tensor belongs to no module of its own.
    """
    slots = list(names.slots(specs, dialect))
    tensors, adapted = _pair_tensors(pairs, slots)
    kept = _kept_modules(slots, whole)
    both = sorted(kept & adapted)
    if both:
        raise InputError(f"{both[0]} was trained whole and with LoRA; an adapter holds one of them, export it merged")
    for path, layers in itertools.groupby(
        (slot for slot in slots if _module(slot.key) in kept), lambda slot: slot.path
    ):
        leaf = read_leaf(path)
        tensors |= {PREFIX + slot.key: slot.layout.to_file(leaf[slot.index()]) for slot in layers}
    rank = next(iter(params_lib.flatten(pairs).values())).shape[-1]
    config = {
        "peft_type": "LORA",
        "task_type": None if "vision" in specs else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
    }
    if distributed.first():
        with complete_folder(out, marker=CONFIG) as folder:
            _write(folder, _Files(tensors, {**config, **_modules(adapted, kept, dialect)}))
    return Path(out)


def export_adapter(
    source: str | Path,
    out: str | Path,
    dialect: str | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the adapter of a LoRA run for another reader.

    Args:
      source: workdir of the run.
      out: the folder to write. An earlier export there is replaced.
      dialect: the spelling of module names, of `names.DIALECTS`. None takes that of `names.for_adapters`.
      about: the content of `MARKER`, the file that marks an export.
      overwrite: replace whatever is in `out`.

    Raises:
      InputError: the run has no adapter, or `out` is somebody else's.
    """
    folder = resolved(source) / FOLDER
    model = model_folder.find(source)
    if not (folder / CONFIG).is_file():
        reason = origin.provenance(model).get("adapter") or "it trained no LoRA"
        raise InputError(f"{source}: has no adapter ({reason}); export the model itself")
    config = from_hf(read_json(model / "config.json"), str(model / "config.json"))
    specs = vlm.param_specs(config)
    fitting = {known.name: known for known in names.fitting(specs)}
    if dialect is not None and dialect not in fitting:
        raise InputError(f"dialect {dialect!r} does not fit this model; use one of {', '.join(fitting)}")
    chosen = fitting.get(dialect or "", names.for_adapters(model_folder.read_settings(model)["dialect"], specs))
    adapter = _respelled(folder, specs, chosen)
    with complete_folder(out, MARKER, overwrite) as written:
        _write(written, adapter)
        write_json(written / MARKER, {**(about or {}), "dialect": chosen.name})
    return Path(out)


@dataclasses.dataclass(frozen=True)
class _Files:
    """Content of an adapter folder: adapter_model.safetensors and adapter_config.json."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]


def _respelled(folder: Path, specs: params_lib.Specs, dialect: names.Dialect) -> _Files:
    """The adapter of a folder with the module names of `dialect`."""
    with contextlib.ExitStack() as stack:
        adapter = Adapter(folder, opener(stack))
        spelled = spellings(specs, dialect)
        tensors, adapted = {}, set()
        for weight, pair in adapter.pairs.items():
            module = _module(spelled[weight])
            adapted.add(module)
            for half, key in (("A", pair.a), ("B", pair.b)):
                tensors[f"{PREFIX}{module}.lora_{half}.weight"] = adapter.read(key)
        tensors |= {PREFIX + spelled[weight]: adapter.read(key) for weight, key in adapter.whole.items()}
        kept = {_module(spelled[weight]) for weight in adapter.whole}
        return _Files(tensors, {**adapter.config, **_modules(adapted, kept, dialect)})


def _modules(adapted: Collection[str], kept: Collection[str], dialect: names.Dialect) -> dict[str, Any]:
    return {"target_modules": _target_modules(adapted, dialect), "modules_to_save": sorted(kept) or None}


def _write(folder: Path, adapter: _Files) -> None:
    from safetensors.numpy import save_file

    save_file(adapter.tensors, folder / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})
    write_json(folder / CONFIG, adapter.config)


def _pair_tensors(pairs: params_lib.Params, slots: list[names.Slot]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Tensors of the adapter's file, and the modules they belong to."""
    ours = {lora_lib.PREFIX + name: pair for name, pair in pairs["decoder"]["layers"].items()}
    tensors, adapted = {}, set()
    for slot in (slot for slot in slots if slot.path in ours):
        a_IR, b = (np.asarray(ours[slot.path][half][slot.layer]) for half in ("a", "b"))
        module = _module(slot.key)
        adapted.add(module)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a_IR.T)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(b.reshape(len(b), -1).T)
    return tensors, adapted


def _module(key: str) -> str:
    return key.rsplit(".", 1)[0]


def _kept_modules(slots: list[names.Slot], whole: Mapping[str, tuple[int, ...] | None]) -> set[str]:
    """Modules that hold a tensor trained without LoRA."""
    kept = set()
    for slot in slots:
        if slot.path not in whole or (whole[slot.path] is not None and slot.layer not in whole[slot.path]):
            continue
        if not slot.key.endswith((".weight", ".bias")):
            raise InputError(f"{slot.path} was trained beside LoRA and has no module of its own; export it merged")
        kept.add(_module(slot.key))
    return kept


def _target_modules(adapted: Collection[str], dialect: names.Dialect) -> str | list[str]:
    """The adapted linears by name. In a LLaVA by an expression: its vision tower has linears of these names."""
    linears = sorted({module.rsplit(".", 1)[1] for module in adapted})
    if dialect.vision is None:
        return linears
    return rf"{re.escape(dialect.text)}layers\.\d+\.(self_attn|mlp)\.({'|'.join(linears)})"
