"""How fluent answers are to a language model: perplexity of the answer's tokens, given the question.

    score = Perplexity(vlm_mu_jax.load("runs/vicuna"))
    summary(score(questions, answers))

Any converted Llama-family checkpoint can score. A LLaVA scores with its language tower and is shown no image. The text
is split by the scoring model's own tokenizer and put into its conversation template, without the end token, since an
answer that was cut off has none.

A short refusal is easy to predict, so a model that refuses more has a lower perplexity. Report it on the answers that
are no refusals as well, and the length beside it.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import Batch, forward, logits_of
from vlm_mu_jax.objectives.logprobs import answer_nll
from vlm_mu_jax.parallel.activations import OnMesh, even_rows
from vlm_mu_jax.progress import Progress

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class AnswerLikelihood:
    """nll: negative log-likelihood of an answer in nats. tokens: how many it has in the judge's tokens."""

    nll: float
    tokens: int


class Perplexity:
    """Scores answers under one language model.

    model: what `vlm_mu_jax.load` returns. batch_size: answers scored at a time.
    """

    def __init__(self, model, batch_size: int = 16):
        self._model, self._batch_size = model, even_rows(model.params, batch_size)
        self.name = str(model.folder)

    def __call__(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        progress: Progress | None = None,
        contexts: Sequence[Context | None] | None = None,
    ) -> list[AnswerLikelihood]:
        """The likelihood of each answer after its question. An empty answer has 0 tokens.

        contexts: the conversation around every question, whose earlier turns are read too; None where it stands alone.

        Raises:
          InputError: a question and its answer are longer than the model's positions.
        """
        processor, limit = self._model.processor, self._model.config.text.max_positions
        words = [context and context.without_images() for context in contexts or [None] * len(questions)]
        examples = [
            processor.example(question, answer, 0, ended=False, context=context)
            for question, answer, context in zip(questions, answers, words, strict=True)
        ]
        for example, question in zip(examples, questions, strict=True):
            if len(example.ids) > limit:
                raise InputError(
                    f"a question and its answer have {len(example.ids)} tokens, the perplexity model takes {limit}"
                    f" (the question begins {question[:40]!r}); use another model"
                )
        order = sorted(range(len(examples)), key=lambda k: len(examples[k].ids))
        starts = range(0, len(order), self._batch_size)
        found: dict[int, AnswerLikelihood] = {}
        for start in progress(starts, "perplexity", len(starts)) if progress and starts else starts:
            rows = order[start : start + self._batch_size]
            found |= dict(zip(rows, self._batch([examples[k] for k in rows]), strict=True))
        return [found[k] for k in range(len(examples))]

    def _batch(self, examples: Sequence) -> list[AnswerLikelihood]:
        """The scores of one batch; rows that fill it up repeat the last one, so that one program serves all."""
        full = [*examples, *[examples[-1]] * (self._batch_size - len(examples))]
        width = min(bucket(max(len(e.ids) for e in full)), self._model.config.text.max_positions)
        batch = self._model.processor.pad([e.ids for e in full], length=width)
        at_T = np.arange(width)[None]
        starts_B1, lengths_B1 = np.array([[e.answer_start] for e in full]), np.asarray(batch.lengths_B)[:, None]
        mask_BT = (at_T >= starts_B1) & (at_T < lengths_B1)
        nll_B, count_B = (np.asarray(x) for x in _nll(self._model.params, batch, mask_BT, self._model.config))
        return [AnswerLikelihood(float(nll_B[i]), int(count_B[i])) for i in range(len(examples))]


@OnMesh
@functools.partial(jax.jit, static_argnames="cfg")
def _nll(params, batch: Batch, mask_BT: jax.Array, cfg) -> tuple[jax.Array, jax.Array]:
    hidden_BTD = forward(params, batch, cfg, logits=False).hidden_BTD
    return answer_nll(hidden_BTD, lambda hidden: logits_of(params, hidden, cfg), batch.tokens_BT, mask_BT)


def summary(scores: Sequence[AnswerLikelihood], seed: int = 0) -> dict[str, dict]:
    """{"perplexity", "tokens"} as metrics {"value", "n", "low", "high"}.

    perplexity is exp(sum of nll / sum of tokens) over the answers that are not empty, tokens the mean length of all.
    The intervals are 95 % bootstrap percentiles over answers, None below two of them.
    """
    pairs = np.array([(s.nll, s.tokens) for s in scores if s.tokens], np.float64).reshape(-1, 2)
    lengths = np.array([s.tokens for s in scores], np.float64)
    return {
        "perplexity": _metric(pairs, lambda picked: np.exp(picked[..., 0].sum(-1) / picked[..., 1].sum(-1)), seed),
        "tokens": _metric(lengths, lambda picked: picked.mean(-1), seed),
    }


def _metric(rows: np.ndarray, statistic, seed: int) -> dict:
    value = float(statistic(rows)) if len(rows) else math.nan
    if not math.isfinite(value):
        return {"value": None, "n": len(rows), "low": None, "high": None}
    low = high = None
    if len(rows) > 1:
        picks = np.random.default_rng(seed).integers(0, len(rows), (_RESAMPLES, len(rows)))
        low, high = (float(x) for x in np.percentile(statistic(rows[picks]), (2.5, 97.5)))
    return {"value": value, "n": len(rows), "low": low, "high": high}
