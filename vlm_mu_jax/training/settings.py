"""The configuration of a training run: every key with its default, and strict reading.

A config file (`configs/NAME.py`) starts from `defaults(objective)` and changes what it needs; flags such as
`--config.optim.learning_rate=2e-5` change single keys. A key that is not here is an error.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ml_collections
from ml_collections import config_dict

from vlm_mu_jax.errors import InputError

if TYPE_CHECKING:
    from vlm_mu_jax.model.config import ModelConfig
    from vlm_mu_jax.model.quantize import Scheme


def defaults(objective: str, layer: int | None = None) -> ml_collections.ConfigDict:
    """Every key of a run with the objective `objective`.

    Args:
      objective: name in `objectives.registry.OBJECTIVES`.
      layer: RMU's layer, which has no default.
    """
    from vlm_mu_jax.objectives import registry
    from vlm_mu_jax.training.optimizer import OptimConfig
    from vlm_mu_jax.training.robust import Robust

    c = ml_collections.ConfigDict()
    c.seed = 0
    c.steps = 100  # optimizer updates
    c.batch_size = 8  # rows per step of every stream
    c.forget_batch_size = config_dict.placeholder(int)  # rows per step of the forget stream; None = batch_size
    c.accumulate = 1  # micro-batches per step
    c.checkpoint_every = 0  # updates between checkpoints; 0 = at the end
    c.keep = 2  # newest checkpoints that stay
    c.log = "tensorboard"  # tensorboard, wandb or trackio: what shows the metrics, offline; see training/trackers.py
    c.model = _dict(
        init="",  # model folder to start from
        like="",  # a name of model/families/published.py, whose sizes bin/plan takes while init is no folder yet
        template=config_dict.placeholder(str),  # conversation template; None = the model folder's
        remat="none",  # none, full, dots, attn_out: what the backward pass recomputes
        quantize="",  # int8, int4, nf4, int4:32, ...: holds the decoder's linear maps in few bits while adapters train
        attention="auto",  # auto, xla, cudnn, splash: see model/flash.py for what is legal where
    )
    c.data = _data()
    known = registry.options(objective)
    c.objective = _dict(name=objective, **{name: _default(option) for name, option in known.items()})
    if layer is not None and "layer" in known:
        c.objective.layer = layer
    c.robust = _dict(**dataclasses.asdict(Robust()))
    c.train = _dict(
        select=("decoder/.*", "projector/.*"),  # regular expressions over whole parameter paths
        slices=ml_collections.ConfigDict(),  # parameter path -> layers; only these layers of the stack train
        lora_rank=0,
        lora_alpha=16.0,
        lora_targets=(".*",),  # regular expressions over decoder linears
        master_dtype="float32",  # of trained copies and optimizer state
    )
    c.optim = _dict(**dataclasses.asdict(OptimConfig()))
    c.mesh = _dict(data=-1, fsdp=1, tensor=1)
    c.eval = _evaluation()
    c.sweep = ()  # (path, values) pairs; bin/train runs every combination, see training/sweep.py
    return c


def _data() -> ml_collections.ConfigDict:
    """Defaults of `config.data`: which files are read, and what becomes of their rows."""
    return _dict(
        root="",  # folder the files below are relative to
        safety="",  # VLGuard JSON or any other shape: refusals for sft, requests and safe pairs for unlearning
        general="",  # general data of any shape, see docs/your_data.md
        on_bad="stop",  # stop, or skip bad rows and count them by reason
        loss="all",  # which answers of a conversation carry the loss: all, or the last
        forget_answers="",  # answers jsonl of the base model on the unsafe requests
        judge="refusal",  # whose stored labels tell refusals among these answers
        forget_target="answer",  # answer, query (the request alone, no answers file is read) or both: what is forgotten
        general_size=config_dict.placeholder(int),  # sft, lm: seeded sample of the general data; None = all
        retain_size=config_dict.placeholder(int),  # records in the retain set; None = all safe and general ones
        separate_general=False,  # unlearning: general data as a third stream instead of inside retain
        max_length=2048,  # tokens of a row, image tokens included; turns, then answers are cut, prompts never
        buckets=1,  # lengths that batches are padded to; each costs a compilation and all of them save padding
    )


def _evaluation() -> ml_collections.ConfigDict:
    """Defaults of `config.eval`: which questions are asked inside training, and what follows from the answers."""
    return _dict(
        every=0,  # updates between evaluations inside training; 0 = none
        data="",  # folder of the questions, as bin/eval takes it
        subset="validation",  # SUBSET.json is asked; keep the test questions out of the choice of a checkpoint
        attack_words="",  # attack.json of bin/attack: ask with its words as well
        questions=32,  # of each kind, drawn by the seed; every opening word of openings.json multiplies them
        judge="",  # "" = the best one the data have: oracle, else refusal
        batch_size=16,
        max_new_tokens=64,
        best="frontier:max",  # METRIC:max or METRIC:min; the model of that step is the run's result
        patience=config_dict.placeholder(int),  # stop after so many evaluations without a better one; None = never
    )


def model_config(cfg: "ModelConfig", model: Mapping[str, Any], platform: str) -> "ModelConfig":
    """The model's configuration with the settings `config.model` applied.

    Args:
      cfg: configuration of the model folder.
      model: `config.model` as plain values.
      platform: "cpu", "gpu" or "tpu", where it is to run.

    Raises:
      InputError: an unknown remat policy, or an attention kernel that is not legal here.
    """
    from vlm_mu_jax.model import flash
    from vlm_mu_jax.model.layers import REMAT_POLICIES

    if model["remat"] not in REMAT_POLICIES:
        raise InputError(f"config.model.remat: {model['remat']!r} is unknown; use one of {', '.join(REMAT_POLICIES)}")
    return cfg.with_text(
        remat=model["remat"], attention=flash.choose(model["attention"], platform, cfg.text, cfg.dtype)
    )


def scheme(model: Mapping[str, Any]) -> "Scheme | None":
    """How `config.model.quantize` holds the decoder's linear maps; None as they are. InputError for another text."""
    from vlm_mu_jax.model.quantize import Scheme

    return Scheme.parse(model["quantize"]) if model["quantize"] else None


def checked(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain values.

    Raises:
      InputError: a key that does not exist, or a value of the wrong type; all of them in one message.
    """
    plain = config.to_dict()
    name = (plain.get("objective") or {}).get("name")
    from vlm_mu_jax.objectives.registry import OBJECTIVES

    if name not in OBJECTIVES:
        raise InputError(f"config.objective.name: {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    known = defaults(name, layer=0).to_dict()
    problems = list(_problems(plain, known, "", list(key_paths(known))))
    if problems:
        raise InputError("; ".join(problems))
    return plain


def changed(config: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A copy of the config with other values.

    Args:
      config: as `defaults` or a config file makes it.
      changes: path -> value, such as {"optim.learning_rate": 2e-5}.

    Raises:
      InputError: a path that is no key, or a value of the wrong type.
    """
    copy = config.copy_and_resolve_references()
    for path, value in changes.items():
        check_path(path, copy)
        try:
            copy.update_from_flattened_dict({path: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"config.{path}: {value!r} does not fit ({error})") from error
    return copy


def check_path(path: str, config: ml_collections.ConfigDict) -> None:
    """Raises InputError when the config has no key of this path, and suggests the nearest one."""
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, ml_collections.ConfigDict) or key not in node:
            if path.startswith("train.slices."):  # a parameter path, which is checked against the model
                return
            raise InputError(f"config.{path} is no key; {_advice(path, list(key_paths(config)))}")
        node = node[key]


def key_paths(config: Any, prefix: str = "") -> Iterator[str]:
    """Paths of all keys of a config or of its plain values, such as "optim.learning_rate"."""
    for key in config:
        value = config[key]
        if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
            yield from key_paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _advice(path: str, known: list[str]) -> str:
    """What to write instead of a path that is no key: the path with the most similar last part, wherever it stands."""

    def likeness(other: str) -> tuple[float, float]:
        last, of_other = (p.rpartition(".")[2].replace("_", "") for p in (path, other))
        return (
            difflib.SequenceMatcher(None, last, of_other).ratio(),
            difflib.SequenceMatcher(None, path, other).ratio(),
        )

    best = max(known, key=likeness)
    if likeness(best)[0] >= 0.7:
        return f"did you mean config.{best}?"
    parent = path.rpartition(".")[0]
    beside = [other for other in known if other.rpartition(".")[0] == parent]
    return f"known beside it: {', '.join(beside)}" if beside else "training/settings.py has all keys"


def _problems(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str, paths: list[str]) -> Iterator[str]:
    """What is wrong with the values below `prefix`; paths: those of all keys, for suggestions."""
    for key in known.keys() - given.keys():
        yield f"config.{prefix}{key} is missing; start the config from training.settings.defaults"
    for key, value in given.items():
        path = f"{prefix}{key}"
        if key not in known:
            yield f"config.{path} is no key; {_advice(path, paths)}"
        elif key == "slices":
            yield from (
                f"config.{path}.{name} must be a list of layer numbers" for name, v in value.items() if not _layers(v)
            )
        elif isinstance(known[key], Mapping):
            if isinstance(value, Mapping):
                yield from _problems(value, known[key], f"{path}.", paths)
            else:
                yield f"config.{path} must hold keys, not {value!r}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"config.{path} must be a finite number, not {value!r}"
        elif known[key] is not None and value is not None and not _fits(value, known[key]):
            yield f"config.{path} must be {type(known[key]).__name__}, not {value!r}"


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        return isinstance(value, tuple | list)
    return isinstance(value, type(default))


def _layers(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)


def _dict(**values: Any) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(values)


def _default(option: Any) -> Any:
    return config_dict.placeholder(option.kind) if option.default is None else option.default
