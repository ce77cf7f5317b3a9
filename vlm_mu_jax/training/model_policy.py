"""The model as objectives see it: token losses and activations of the weights in training and before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.data.batches import TrainBatch
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.decoder import DecoderInput, decode
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.stacks import freeze
from vlm_mu_jax.model.vlm import Batch, decoder_input, final_norm, logits_of
from vlm_mu_jax.objectives import logprobs
from vlm_mu_jax.objectives.reading import Read, Reading


@dataclasses.dataclass(frozen=True)
class ModelPolicy:
    """`vlm_mu_jax.objectives.reading.Policy` over the real model.

    Attributes:
      params: the weights in training.
      lora: adapters on them, or None.
      reference: the weights before training, where the objective needs them.
      cfg: the model's configuration.
      constants: see `Policy`.
      shared: how many leading decoder blocks compute the same under both weights, as `trainable.shared_blocks` says.
        They then run once.
      latent_NBTD: what is added to the residual stream behind blocks 0..N - 1, on the stream `forget` and under the
        weights in training alone. See `latent`.
    """

    params: Params
    lora: dict[str, Any] | None
    reference: Params | None
    cfg: ModelConfig
    constants: Mapping[str, Array]
    shared: int | None = None
    latent_NBTD: Array | None = None

    @property
    def image_token_id(self) -> int | None:
        return self.cfg.image_token_id

    def read(self, rows: Mapping[str, TrainBatch], reads: Mapping[str, Read]) -> dict[str, Reading]:
        """Readings by stream name.

        Where token losses are asked for, the pass runs the whole decoder. Where only activations are, it ends at their
        last layer.
        """
        calm = dataclasses.replace(self, latent_NBTD=None)
        return {name: (self if name == "forget" else calm)._stream(rows[name], read) for name, read in reads.items()}

    def nll(self, rows: TrainBatch) -> tuple[Array, Array]:
        """Summed answer NLL in nats and number of answer tokens, per row."""
        start, _ = self._starts(rows.batch, Read())
        hidden, tokens, mask = self._scored(self.params, self._now(start), rows)
        return logprobs.answer_nll(hidden, self._head(self.params), tokens, mask)

    def _stream(self, rows: TrainBatch, read: Read) -> Reading:
        """One pass under each of the weights. Token losses go on from the last layer whose activations were read."""
        for layer in read.layers:
            if not 0 <= layer < self.cfg.text.L:
                raise InputError(f"the objective asks for layer {layer}; the decoder has 0..{self.cfg.text.L - 1}")
        now, before = self._starts(rows.batch, read)
        hidden, reference = {}, {}
        for layer in read.layers:
            now = self._now(now, layer + 1)
            hidden[layer] = now.x_BTD
            if read.reference:
                before = self._before(before, layer + 1)
                reference[layer] = before.x_BTD
        return Reading(self._sums(rows, read, now, before), hidden, reference)

    def _sums(self, rows: TrainBatch, read: Read, now: "_State", before: "_State | None") -> dict:
        if not read.tokens:
            return {}
        hidden, tokens, mask = self._scored(self.params, self._now(now), rows)
        reference = None
        if any(loss.uses_reference for loss in read.tokens):
            known, _, _ = self._scored(self.reference, self._before(before), rows)
            reference = jax.lax.stop_gradient(known), self._head(self.reference)
        sums = logprobs.answer_sums(hidden, self._head(self.params), tokens, mask, read.tokens, reference)
        return dict(zip(read.tokens, sums, strict=True))

    def _starts(self, batch: Batch, read: Read) -> tuple["_State", "_State | None"]:
        """Where the passes under the present weights and under those before training part, or begin."""
        now = _State(0, self._disturbed(decoder_input(self.params, batch, self.cfg)))
        if not read.needs_reference:
            return now, None
        if self.shared is None or self.latent_NBTD is not None:
            return now, _State(0, decoder_input(self.reference, batch, self.cfg))
        last = read.layers[0] + 1 if read.layers else self.cfg.text.L
        now = self._now(now, min(self.shared, last))
        return now, now

    def _disturbed(self, stream: DecoderInput) -> DecoderInput:
        """The rows with `latent_NBTD`, beside what the model itself adds behind its blocks."""
        if self.latent_NBTD is None:
            return stream
        given = [deep for deep in (self.latent_NBTD, stream.deep_NBTD) if deep is not None]
        blocks = max(len(deep) for deep in given)
        padded = [jnp.pad(deep, [(0, blocks - len(deep))] + [(0, 0)] * 3) for deep in given]
        return stream.replace(deep_NBTD=sum(padded))

    def _now(self, state: "_State", block: int | None = None) -> "_State":
        return self._run(self.params, self.lora, state, self.cfg.text.L if block is None else block)

    def _before(self, state: "_State", block: int | None = None) -> "_State":
        frozen = {"decoder": {"layers": freeze(self.reference["decoder"]["layers"])}}
        state = self._run(frozen, None, state, self.cfg.text.L if block is None else block)
        return dataclasses.replace(state, stream=jax.lax.stop_gradient(state.stream))

    def _run(self, params: Params, lora: dict[str, Any] | None, state: "_State", block: int) -> "_State":
        if block == state.block:
            return state
        layers = params["decoder"]["layers"]
        done = decode(layers, state.stream, self.cfg.text, lora=lora, first=state.block, upto=block - 1)
        return _State(block, state.stream.replace(x_BTD=done.x_BTD))

    def _scored(self, params: Params, state: "_State", rows: TrainBatch) -> tuple[Array, Array, Array]:
        """Final hidden states, tokens and loss mask at the positions that token losses need."""
        x, tokens, mask = state.x_BTD, rows.batch.tokens_BT, rows.mask_BT
        if rows.window_BW is not None:
            x = jnp.take_along_axis(x, rows.window_BW[:, :, None], axis=1)
            tokens, mask = (jnp.take_along_axis(leaf, rows.window_BW, axis=1) for leaf in (tokens, mask))
        return final_norm(params, x, self.cfg), tokens, mask

    def _head(self, params: Params) -> logprobs.Head:
        return lambda hidden: logits_of(params, hidden, self.cfg)


@dataclasses.dataclass(frozen=True)
class _State:
    """A pass on its way: stream.x_BTD is the residual stream before decoder block `block`."""

    block: int
    stream: DecoderInput

    @property
    def x_BTD(self) -> Array:
        return self.stream.x_BTD
