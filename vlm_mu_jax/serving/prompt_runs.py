"""Runs prompts for the server, and keeps the beginnings that other prompts may share: an image and what precedes it."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.cpu_weights import for_cpu
from vlm_mu_jax.model.generate import can_share
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.serving import programs
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.hidden_states import batch_states
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True, eq=False)
class ServedPrompt:
    """A prompt as the model reads it.

    ids: its tokens, every image as its placeholders. pixels: what `Processor.pixels` makes of its images. image_ids:
    names of their content. text_ids: the same prompt without its images, for guards that read the text alone.
    """

    ids: tuple[int, ...]
    pixels: tuple[Any, ...] = ()
    image_ids: tuple[str, ...] = ()
    text_ids: tuple[int, ...] = ()


class PromptRuns:
    """Prefill of one model. Not for several threads at a time."""

    def __init__(self, model: Model, guard: Guard | None, prefix_bytes: int):
        self._model, self._guard, self._most = model, guard, prefix_bytes
        self._params = for_cpu(model.params)
        self._steer = None if guard is None else guard.steer(model)
        self._shares = can_share(model.config, self._steer)
        self._prefixes: collections.OrderedDict[tuple, tuple[KV, int]] = collections.OrderedDict()
        self._last: tuple[ServedPrompt, programs.Begun] | None = None

    def begin(self, prompt: ServedPrompt) -> programs.Begun:
        """Runs the prompt. That of the last call is still there: the answers of one request follow each other."""
        if self._last is None or self._last[0] is not prompt:
            self._last = None
            self._last = (prompt, self._begin(prompt))
        return self._last[1]

    def forget(self) -> None:
        """Frees the last prompt's memory."""
        self._last = None

    def _begin(self, prompt: ServedPrompt) -> programs.Begun:
        model, ids = self._model, prompt.ids
        steer, prefix, start = self._steer_of(prompt), None, 0
        if self._shares and prompt.pixels:
            start = 1 + max(i for i, token in enumerate(ids) if token == model.config.image_token_id)
            start = 0 if start >= len(ids) else start
        if start:
            prefix, batch = self._prefix(prompt, start, steer), self._batch(ids[start:], ())
        else:
            batch = self._batch(ids, prompt.pixels)
        return programs.begin(self._params, batch, model.config, steer, prefix, np.array([start], np.int32))

    def _steer_of(self, prompt: ServedPrompt) -> Steer | None:
        guard = self._guard
        if guard is None or not guard.options.needs_first_pass:
            return self._steer
        text_only = guard.options.first_pass_reads_text
        batch = self._batch(prompt.text_ids, ()) if text_only else self._batch(prompt.ids, prompt.pixels)
        return guard.as_steer(batch_states(self._model, batch))

    def _prefix(self, prompt: ServedPrompt, start: int, steer: Steer | None) -> KV:
        """Keys and values of the prompt's first tokens, from an earlier prompt if that began alike."""
        key = (prompt.ids[:start], prompt.image_ids)
        if key not in self._prefixes:
            batch = self._batch(prompt.ids[:start], prompt.pixels)
            kv = programs.begin_prefix(self._params, batch, self._model.config, steer)
            self._prefixes[key] = kv, kv.k.nbytes + kv.v.nbytes
        self._prefixes.move_to_end(key)
        kv = self._prefixes[key][0]
        while sum(size for _, size in self._prefixes.values()) > self._most:
            self._prefixes.popitem(last=False)
        return kv

    def _batch(self, ids: Sequence[int], pixels: Sequence[Any]) -> Any:
        return self._model.processor.pad([list(ids)], [list(pixels)] if pixels else None, length=padded(len(ids)))


def padded(length: int) -> int:
    """The width that a prompt of `length` tokens is padded to: 16, 24, 32, 48, 64 and so on, two a doubling."""
    width = 16
    while width < length:
        width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
    return width
