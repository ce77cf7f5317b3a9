"""How deep unlearning goes: what every layer of a model still knows of an answer, with and without the image.

    found = vlm_mu_jax.depth(model, records)        # unsafe records with the answers to unlearn, safe ones with theirs
    found.conditions["own"]["lens"]["harmful"][-1]["value"]

A model may have lost a harmful answer, or only its way out. Three readings of the residual stream behind every block
tell the two apart. All are made of the prompt followed by the given answer, token by token as it would be written:

- `kind`: whether a linear probe tells harmful requests from harmless ones, at the prompt's last token. The probe is
  the difference of the two means. AUROC on requests that it was not fitted on.
- `probe`: whether a linear map reads the answer's next token off the state. The map is fitted by ridge regression on
  the answers of other requests (5 folds). Anybody who has the weights may fit one. Share of tokens.
- `lens`: whether the model's own final norm and head read it (the logit lens of nostalgebraist, 2020). Share of tokens.

Where `lens` falls at the last layers and `probe` does not, the answer is still there, and only the exit is closed. Two
controls stand beside: the answers to harmless requests, and `floor`, the share that the same regression reads off the
place and the token before alone.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.data.prompts import Example, bucket
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.model.vlm import Batch, final_norm, forward, logits_of
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.auroc import auroc_per_layer
from vlm_mu_jax.steering.diagnostics import folds, held_out_scores
from vlm_mu_jax.storage.model_folder import Model

TOKENS = 16  # of every answer the first so many are read
_RIDGE = 1e-2  # of the mean squared length of a state
_KINDS = {"harmful": "unsafe", "harmless": "safe"}


@dataclasses.dataclass(frozen=True)
class Depth:
    """What every layer knows.

    Attributes:
      conditions: "text" and, where every record has an image that the model can see, "own" -> {"kind": [...], "probe":
        {"harmful": [...], "harmless": [...]}, "lens": the same, "floor": {"harmful": one, "harmless": one}}. A list has
        one entry a layer, {"value", "low", "high", "n"}: AUROC, or a share of answer tokens. Intervals are 95 %; those
        of shares take tokens as independent.
      n: {"harmful", "harmless"}, requests of each kind.
    """

    conditions: Mapping[str, Mapping[str, Any]]
    n: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as holds.json has them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class _Read:
    """Answer tokens, one behind the other: the states that write them, the tokens, the tokens before, their places,
    whose they are, and whether the lens reads them [L, N]. last_LRD: states of the prompts' last tokens."""

    states_LND: np.ndarray
    token_N: np.ndarray
    before_N: np.ndarray
    place_N: np.ndarray
    owner_N: np.ndarray
    read_LN: np.ndarray
    last_LRD: np.ndarray


def depth(model: Model, records: Records, *, batch_size: int = 8, progress: Progress | None = None) -> Depth:
    """Measures what the layers of a model still know of the answers to some records.

    Args:
      records: unsafe ones with the harmful answers that are looked for, such as `training.relearning.forget_records`
        gives, and safe ones with their reference answers. Others are left out.
      batch_size: rows run at a time.

    Raises:
      InputError: one of the two kinds has fewer than two records with an answer.
    """
    kept = [r for r in records if r.kind in _KINDS.values() and r.answer and len(r.images) <= 1]
    kept.sort(key=lambda record: record.id)  # a request's variants side by side, and so in one fold
    harmful_R = np.array([record.kind == "unsafe" for record in kept], bool)
    n = {"harmful": int(harmful_R.sum()), "harmless": int((~harmful_R).sum())}
    if min(n.values()) < 2:
        raise InputError(f"{records.source}: {n} records with answers; depth needs two or more of each kind")
    images: dict[str, list[list]] = {"text": [[] for _ in kept]}
    if model.config.vision is not None and all(record.image is not None for record in kept):
        images["own"] = [[model.processor.pixels(path) for path in records.image_paths(record)] for record in kept]
    found = {}
    for name, shown in images.items():
        examples = [
            model.processor.example(record.question, record.answer, some, ended=False)
            for record, some in zip(kept, shown, strict=True)
        ]
        found[name] = _rates(_read(model, examples, shown, batch_size, progress, name), harmful_R)
    return Depth(found, n)


def _rates(read: _Read, harmful_R: np.ndarray) -> dict[str, Any]:
    scores_LR = held_out_scores(read.last_LRD, harmful_R)
    fold_N = folds(harmful_R)[read.owner_N]
    probed_LN = np.stack([_probe(states_ND, read.token_N, fold_N) for states_ND in read.states_LND])
    floor_N = _probe(np.concatenate([_one_hot(read.before_N), _one_hot(read.place_N)], 1), read.token_N, fold_N)
    sides = {name: harmful_R[read.owner_N] == (kind == "unsafe") for name, kind in _KINDS.items()}
    shares = {
        what: {name: [_share(row[side_N]) for row in right_LN] for name, side_N in sides.items()}
        for what, right_LN in (("probe", probed_LN), ("lens", read.read_LN))
    }
    shares["floor"] = {name: _share(floor_N[side_N]) for name, side_N in sides.items()}
    return {"kind": auroc_per_layer(scores_LR[:, harmful_R], scores_LR[:, ~harmful_R]), **shares}


def _share(right_N: np.ndarray) -> dict[str, Any]:
    metric = proportion(int(right_N.sum()), len(right_N)).to_dict()
    return {name: metric[name] for name in ("value", "low", "high", "n")}


def _one_hot(values_N: np.ndarray) -> np.ndarray:
    return (values_N[:, None] == np.unique(values_N)[None]).astype(np.float64)


def _probe(states_ND: np.ndarray, token_N: np.ndarray, fold_N: np.ndarray) -> np.ndarray:
    """Whether a ridge regression from the states onto the tokens reads each token, bool [N]; fitted on other folds."""
    x_ND, onto_NC = states_ND.astype(np.float64), _one_hot(token_N)
    right_N = np.zeros(len(token_N), bool)
    for fold in np.unique(fold_N):
        held_N = fold_N == fold
        mean_D, mean_C = x_ND[~held_N].mean(0), onto_NC[~held_N].mean(0)
        centred_ND = x_ND[~held_N] - mean_D[None]
        square_DD = centred_ND.T @ centred_ND
        square_DD += _RIDGE * np.trace(square_DD) / len(square_DD) * np.eye(len(square_DD))
        map_DC = np.linalg.solve(square_DD, centred_ND.T @ (onto_NC[~held_N] - mean_C[None]))
        guess_N = ((x_ND[held_N] - mean_D[None]) @ map_DC + mean_C[None]).argmax(1)
        right_N[held_N] = onto_NC[held_N, guess_N] == 1
    return right_N


def _read(
    model: Model,
    examples: Sequence[Example],
    images: Sequence[list],
    batch_size: int,
    progress: Progress | None,
    name: str,
) -> _Read:
    """Runs all rows. Batches have one shape; rows that fill the last one up repeat its last row."""
    width, size = bucket(max(len(one.ids) for one in examples)), min(batch_size, len(examples))
    starts, parts = range(0, len(examples), size), []
    for start in progress(starts, f"depth, {name}", len(starts)) if progress else starts:
        rows = [min(start + k, len(examples) - 1) for k in range(size)]
        some = [examples[k] for k in rows]
        batch = model.processor.pad([one.ids for one in some], [images[k] for k in rows], length=width)
        begin_B = np.array([one.answer_start for one in some])
        length_B = np.minimum(np.asarray(batch.lengths_B) - begin_B, TOKENS)
        out = [np.asarray(x) for x in _layers(model.params, batch, jnp.asarray(begin_B), model.config)]
        parts.append(_real(*out, length_B, np.array(rows), min(size, len(examples) - start)))
    layered = ("states_LND", "read_LN", "last_LRD")
    return _Read(**{key: np.concatenate([part[key] for part in parts], int(key in layered)) for key in parts[0]})


def _real(states_LBAD, token_BA, before_BA, read_LBA, length_B, row_B, count: int) -> dict[str, np.ndarray]:
    """The fields of `_Read`, of the rows that are real."""
    place_BA = np.broadcast_to(np.arange(token_BA.shape[1])[None], token_BA.shape)
    real_BA = (place_BA < length_B[:, None]) & (np.arange(len(row_B)) < count)[:, None]
    return {
        "states_LND": states_LBAD[:, real_BA],
        "token_N": token_BA[real_BA],
        "before_N": before_BA[real_BA],
        "place_N": place_BA[real_BA],
        "owner_N": np.broadcast_to(row_B[:, None], token_BA.shape)[real_BA],
        "read_LN": read_LBA[:, real_BA],
        "last_LRD": states_LBAD[:, :count, 0],
    }


@functools.partial(jax.jit, static_argnames="cfg")
def _layers(params, batch: Batch, begin_B: jax.Array, cfg) -> tuple[jax.Array, ...]:
    """Of the first A = TOKENS answer tokens: the states [L, B, A, D] that write them, the tokens [B, A], the tokens
    before them [B, A], whether the lens reads them [L, B, A]."""
    taps_LBTD = forward(params, batch, cfg, tap="all", logits=False).taps
    last = batch.tokens_BT.shape[1] - 1
    at_BA = jnp.minimum(begin_B[:, None] + jnp.arange(TOKENS)[None], last)
    token_BA, before_BA = (jnp.take_along_axis(batch.tokens_BT, at, axis=1) for at in (at_BA, at_BA - 1))
    states_LBAD = jnp.take_along_axis(taps_LBTD, at_BA[None, :, :, None] - 1, axis=2)

    def lens(states_BAD: jax.Array) -> jax.Array:
        hidden = final_norm(params, states_BAD.astype(params["decoder"]["norm_D"].dtype), cfg)
        return logits_of(params, hidden, cfg).argmax(-1) == token_BA

    return states_LBAD, token_BA, before_BA, jax.lax.map(lens, states_LBAD)
