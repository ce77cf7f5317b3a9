"""generation_config.json: where an answer ends, and what else there changes greedy answers in transformers."""

import dataclasses
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model.config import ModelConfig

FILE = "generation_config.json"
# transformers@generation/configuration_utils.py: what changes greedy decoding, and the values that switch it off
_OFF = {
    "repetition_penalty": (None, 1, 1.0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, [], {}),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
    "guidance_scale": (None, 1, 1.0),
    "stop_strings": (None, []),
}


def with_ends(cfg: ModelConfig, folder: Path) -> ModelConfig:
    """The config with the end tokens of generation_config.json, as transformers generates; unchanged without that file.

    The first end token closes an answer in training. It stays the one of config.json where both files name it.

    Raises:
      InputError: the file is broken or names an end token that does not exist.
    """
    if not (folder / FILE).is_file():
        return cfg
    found = read_json(folder / FILE).get("eos_token_id")
    ends = [] if found is None else found if isinstance(found, list) else [found]
    if any(type(one) is not int or not 0 <= one < cfg.text.V for one in ends):
        raise InputError(f"{folder / FILE}: eos_token_id {found!r} is none of the model's {cfg.text.V} tokens")
    if not ends:
        return cfg
    first = [one for one in cfg.eos_ids if one in ends]
    return dataclasses.replace(cfg, eos_ids=tuple(dict.fromkeys([*first, *ends])))


def other_settings(folder: Path) -> dict[str, Any]:
    """Settings that change transformers' greedy answers and that we do not follow."""
    if not (folder / FILE).is_file():
        return {}
    found = read_json(folder / FILE)
    return {name: found[name] for name, off in _OFF.items() if name in found and found[name] not in off}
