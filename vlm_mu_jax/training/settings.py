"""The configuration of a training run: every key with its default, and strict reading.

A config file (`configs/NAME.py`) starts from `defaults(objective)` and changes what it needs; flags such as
`--config.optim.learning_rate=2e-5` change single keys. A key that is not here is an error.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from vlm_mu_jax.errors import InputError


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
    c.model = _dict(
        init="",  # model folder to start from
        like="",  # published model whose sizes bin/plan takes while init is no folder yet: llava-1.5-7b, llava-1.5-13b
        template=config_dict.placeholder(str),  # conversation template; None = the model folder's
        remat="none",  # none, full, dots, attn_out: what the backward pass recomputes
        attention="auto",  # auto, xla, cudnn, splash: see model/flash.py for what is legal where
    )
    c.data = _dict(
        root="",  # folder the files below are relative to
        safety="",  # VLGuard JSON: refusals for sft, requests and safe pairs for unlearning
        general="",  # LLaVA JSON of general data
        forget_answers="",  # answers jsonl of the base model on the unsafe requests
        judge="keyword",  # whose stored labels tell refusals among these answers
        forget_target="answer",  # answer, query (the request alone, no answers file is read) or both: what is forgotten
        general_size=config_dict.placeholder(int),  # sft, lm: seeded sample of the general data; None = all
        retain_size=config_dict.placeholder(int),  # records in the retain set; None = all safe and general ones
        separate_general=False,  # unlearning: general data as a third stream instead of inside retain
        max_length=2048,  # tokens of a row, image tokens included; answers are cut, prompts never
        buckets=1,  # lengths that batches are padded to; each costs a compilation and all of them save padding
    )
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
    c.eval = _dict(
        every=0,  # updates between evaluations inside training; 0 = none
        data="",  # folder of the questions, as bin/eval takes it
        subset="validation",  # SUBSET.json is asked; keep the test questions out of the choice of a checkpoint
        attack_words="",  # attack.json of bin/attack: ask with its words as well
        questions=32,  # of each kind, drawn by the seed; every opening word of openings.json multiplies them
        judge="",  # "" = the best one the data have: oracle, else keyword
        batch_size=16,
        max_new_tokens=64,
        best="frontier:max",  # METRIC:max or METRIC:min; the model of that step is the run's result
        patience=config_dict.placeholder(int),  # stop after so many evaluations without a better one; None = never
    )
    c.sweep = ()  # (path, values) pairs; bin/train runs every combination, see training/sweep.py
    return c


def model_config(cfg: Any, model: Mapping[str, Any], platform: str) -> Any:
    """The `LlavaConfig` with the settings `config.model` applied; platform: "cpu", "gpu" or "tpu" it is to run on.

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
    problems = list(_problems(plain, defaults(name, layer=0).to_dict(), "config."))
    if problems:
        raise InputError("; ".join(problems))
    return plain


def _problems(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> Any:
    for key in known.keys() - given.keys():
        yield f"{prefix}{key} is missing; start the config from training.settings.defaults"
    for key, value in given.items():
        if key not in known:
            yield f"{prefix}{key} is no key; known here: {', '.join(known) or 'none'}"
        elif key == "slices":
            yield from (
                f"{prefix}{key}.{path} must be a list of layer numbers" for path, v in value.items() if not _layers(v)
            )
        elif isinstance(known[key], Mapping):
            if isinstance(value, Mapping):
                yield from _problems(value, known[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} must hold keys, not {value!r}"
        elif known[key] is not None and value is not None and not _fits(value, known[key]):
            yield f"{prefix}{key} must be {type(known[key]).__name__}, not {value!r}"


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
