"""PEFT LoRA adapters (huggingface/peft), merged into a checkpoint while it is read.

An adapter folder holds adapter_config.json and adapter_model.safetensors. The tensors of a module are
`base_model.model.<module>.lora_A.weight` [r, in] and `lora_B.weight` [out, r]. A linear W [out, in] becomes W + s B A.
The scale s is alpha / r, or alpha / sqrt(r) with use_rslora. Modules that were trained whole (modules_to_save, trained
biases, LLaVA's non_lora_trainables) replace those of the base. An adapter may spell its modules in any of our dialects,
whatever the spelling of the base.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.overlay import Overlay, Tensors
from vlm_mu_jax.conversion.tensor_files import DTYPES, TensorInfo
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model import params as params_lib

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model"
OTHERS = "non_lora_trainables"  # llava/train/train.py: what was trained without LoRA, mostly the projector
LABEL = "lora"  # of the adapter's files in the provenance
PREFIX = "base_model.model."
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?!bias)\w+)?")
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.\w+)?)(?=\.)")
# Fields of adapter_config.json that do not change what is computed here; any other must be off.
_NEUTRAL = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")  # others change the base weights at the start


@dataclasses.dataclass(frozen=True)
class Pair:
    """Keys of one adapted weight in the adapter's file.

    embedding: whether the pair is stored as [r, in] and [out, r] of the transposed weight.
    """

    a: str
    b: str
    embedding: bool
    scale: float


class Adapter:
    """An adapter folder: LoRA pairs, and tensors that replace others. Both are found by the key of their weight.

    Args:
      folder: holds adapter_config.json.
      open_file: opens a weights file by its stem, and returns None where there is none.

    Raises:
      InputError: the folder holds no LoRA adapter, or one of a kind that is not W + s B A.
    """

    def __init__(self, folder: Path, open_file: Callable[[Path, str], Tensors | None]):
        self.folder = folder
        self.config = read_json(folder / CONFIG)
        _check(self.config, str(folder / CONFIG))
        self.files = [files for stem in (WEIGHTS, OTHERS) if (files := open_file(folder, stem)) is not None]
        if not self.files:
            raise InputError(f"{folder}: no {WEIGHTS}.safetensors; is this a PEFT adapter folder?")
        self.problems = [problem for files in self.files for problem in files.problems]
        self.where = {key: files for files in self.files for key in files.tensors}
        self.pairs: dict[str, Pair] = {}
        self.whole: dict[str, str] = {}
        self._parse()

    def read(self, key: str) -> np.ndarray:
        return self.where[key].read(key)

    def info(self, key: str) -> TensorInfo:
        return self.where[key].tensors[key]

    def _parse(self) -> None:
        halves: dict[str, dict[str, str]] = {}
        embeddings = set()
        for key in self.where:
            bare = key.removeprefix(PREFIX)
            found = _PAIR.fullmatch(bare.removesuffix(".weight"))
            if found:
                weight = f"{found['module']}.weight"
                halves.setdefault(weight, {})[found["side"]] = key
                embeddings |= {weight} if found["embedding"] else set()
            elif ".lora_" in bare:
                self.problems.append(f"{key} is no part of a plain LoRA pair")
            else:
                self.whole[_WRAPPERS.sub("", bare)] = key
        for weight, half in halves.items():
            if half.keys() != {"A", "B"}:
                self.problems.append(f"{weight}: has only lora_{''.join(half)} of its pair")
                continue
            rank, *_ = self.info(half["A"]).shape or (0,)
            if not rank:
                self.problems.append(f"{half['A']} is empty")
                continue
            scale = _scale(self.config, weight.removesuffix(".weight"), rank)
            self.pairs[weight] = Pair(half["A"], half["B"], weight in embeddings, scale)


def _check(config: Mapping[str, Any], source: str) -> None:
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type {config.get('peft_type')!r} (only LORA)")
    if config.get("init_lora_weights", True) not in _INITS:
        problems.append(f"init_lora_weights {config['init_lora_weights']!r} (it changes the base weights)")
    problems += [f"{name} {value!r}" for name, value in config.items() if value and name not in _NEUTRAL]
    if problems:
        raise InputError(f"{source}: not supported: {'; '.join(problems)}; merge the adapter with peft itself")
    try:
        _scale(config, "", 1)
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise InputError(f"{source}: a field is missing or wrong ({error!r}); restore the file") from error


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The scale s of one module.

    The keys of alpha_pattern are regular expressions for the ends of module names
    (peft@utils/other.py:get_pattern_key).
    """
    patterns = config.get("alpha_pattern") or {}
    matching = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = float(next(matching, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def merged(files: Tensors, adapter: Adapter, specs: params_lib.Specs, dialect: names.Dialect) -> Tensors:
    """The base's files with the adapter added in, tensor by tensor as they are read.

    Args:
      files: tensors of the base.
      adapter: its keys may be spelled in another dialect than the base's.
      specs: parameters of the model.
      dialect: spelling of `files`.
    """
    spelled = spellings(specs, dialect)
    problems = list(adapter.problems)
    headers: dict[str, TensorInfo] = {}
    pairs: dict[str, Pair] = {}
    whole: dict[str, str] = {}
    for weight, key in adapter.whole.items():
        if names.is_ignored(weight):
            continue
        if weight not in spelled:
            problems.append(f"{LABEL}/{key} belongs to no tensor of this model")
            continue
        whole[spelled[weight]], headers[spelled[weight]] = key, adapter.info(key)
    for weight, pair in adapter.pairs.items():
        target = spelled.get(weight)
        base = headers.get(target) or files.tensors.get(target or "")
        if base is None:
            problems.append(f"{LABEL}/{pair.a} belongs to no tensor of this model")
        elif problem := _misfit(adapter, pair, base.shape):
            problems.append(f"{LABEL}/{weight}: {problem}")
        else:
            pairs[target], headers[target] = pair, base

    def read(key: str) -> np.ndarray:
        weight = adapter.read(whole[key]) if key in whole else files.read(key)
        return weight if key not in pairs else add(weight, adapter, pairs[key])

    return Overlay(files, headers, read, problems, [(LABEL, part) for part in adapter.files])


def add(weight: np.ndarray, adapter: Adapter, pair: Pair) -> np.ndarray:
    """W + s B A. The sum is float32, and is rounded once, to W's dtype."""
    a, b = (adapter.read(key).astype(np.float32) for key in (pair.a, pair.b))
    delta = b @ a
    if pair.embedding:
        delta = delta.T
    delta *= np.float32(pair.scale)
    return (weight.astype(np.float32) + delta).astype(weight.dtype)


def _misfit(adapter: Adapter, pair: Pair, shape: tuple[int, ...]) -> str | None:
    a, b = adapter.info(pair.a).shape, adapter.info(pair.b).shape
    strange = {adapter.info(key).dtype for key in (pair.a, pair.b)} - DTYPES.keys()
    if strange:
        return f"has dtype {', '.join(sorted(strange))}; only {', '.join(DTYPES)} can be converted"
    if len(a) != 2 or len(b) != 2 or len(shape) != 2:
        return f"only LoRA on linear layers is supported, not on a weight of shape {list(shape)}"
    if a[0] != b[1]:
        return f"lora_A {list(a)} and lora_B {list(b)} have different ranks"
    made = (a[1], b[0]) if pair.embedding else (b[0], a[1])
    return None if made == tuple(shape) else f"its pair makes {list(made)}, the base has {list(shape)}"


def spellings(specs: params_lib.Specs, dialect: names.Dialect) -> dict[str, str]:
    """Maps every key that a dialect has for a tensor of this model to the key in `dialect`."""
    own = {(slot.path, slot.layer): slot.key for slot in names.slots(specs, dialect)}
    known = {}
    for other in names.fitting(specs):
        known |= {slot.key: own[slot.path, slot.layer] for slot in names.slots(specs, other)}
    return known
