"""A loaded model with a PEFT LoRA adapter merged in.

The result equals the model folder that `convert` writes with the option `lora`, bit for bit. Parameters that the
adapter leaves alone are those of the model itself, so that a model and its adapters share them in memory.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from vlm_mu_jax.conversion import names, peft
from vlm_mu_jax.conversion.tensor_files import DTYPES, TensorInfo, opener
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model import vlm
from vlm_mu_jax.storage.model_folder import Model

_SPELLED = {name: code for code, name in DTYPES.items()}


def check(folder: str | Path) -> None:
    """Reads an adapter's config and headers. Raises InputError when it is none that can be merged."""
    with _opened(folder):
        pass


def with_adapter(model: Model, folder: str | Path) -> Model:
    """`model` with the adapter of `folder` merged into its weights.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors; a LoRA run's workdir holds one in `adapter/`.

    Raises:
      InputError: the folder holds no LoRA adapter, or one of another model.
    """
    specs = vlm.param_specs(model.config)
    dialect = names.default_dialect(specs)
    slots: dict[str, list[names.Slot]] = {}
    for slot in names.slots(specs, dialect):
        slots.setdefault(slot.path, []).append(slot)
    flat = dict(params_lib.flatten(model.params))
    with _opened(folder) as adapter:
        files = peft.merged(_InMemory(model, slots), adapter, specs, dialect)
        if files.problems:
            raise InputError(f"{folder}: does not fit the model: {'; '.join(files.problems)}")
        spelled = peft.spellings(specs, dialect)
        changed = {spelled[key] for key in (*adapter.pairs, *adapter.whole) if key in spelled}
        for path, parts in slots.items():
            if changed.isdisjoint(slot.key for slot in parts):
                continue
            arrays = [slot.layout.to_ours(files.read(slot.key), slot.shape) for slot in parts]
            whole = arrays[0] if parts[0].layer is None else np.stack(arrays)
            flat[path] = jax.device_put(np.ascontiguousarray(whole), flat[path].sharding)
    return dataclasses.replace(model, params=params_lib.unflatten(flat))


@contextlib.contextmanager
def _opened(folder: str | Path) -> Iterator[peft.Adapter]:
    found = resolved(folder)
    found = found if (found / peft.CONFIG).is_file() else found / "adapter"
    if not (found / peft.CONFIG).is_file():
        raise InputError(f"{folder}: holds no LoRA adapter ({peft.CONFIG} is missing)")
    with contextlib.ExitStack() as stack:
        yield peft.Adapter(found, opener(stack))


class _InMemory:
    """The parameters of a loaded model as the tensors of a checkpoint (`overlay.Tensors`)."""

    def __init__(self, model: Model, slots: dict[str, list[names.Slot]]):
        self.folder, self.names, self.problems = model.folder, [], []
        self._flat = params_lib.flatten(model.params)
        self._slots = {slot.key: slot for parts in slots.values() for slot in parts}
        kinds = {path: _SPELLED[str(self._flat[path].dtype)] for path in slots}
        self.tensors = {key: TensorInfo("", slot.file_shape, kinds[slot.path]) for key, slot in self._slots.items()}

    def read(self, key: str, into: np.ndarray | None = None) -> np.ndarray:
        slot = self._slots[key]
        return slot.layout.to_file(np.asarray(self._flat[slot.path][slot.index()]))

    def in_rows(self, key: str) -> bool:
        return False

    def sha256(self) -> Iterator[tuple[str, str]]:
        return iter(())
