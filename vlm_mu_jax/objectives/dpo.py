"""Direct preference optimisation (DPO, arXiv 2305.18290) with the harmful answer as the rejected one.

    mean over questions of -(2 / beta) log sigmoid(beta (r_rejected - r_preferred)),   r = NLL_current - NLL_reference

Row i of the stream `preferred` answers the question of row i of `forget` as the model should: with the refusal that
stands in the safety data ("refusal"), or with a sentence that it does not know ("idk", then called IdkDPO). r are sums
over answer tokens (`sequence_sum`) as in every public code; `token_mean` takes means, so that a short refusal weighs as
much as a long answer. The gradient at the start is that of NLL_preferred - NLL_rejected (times 1 with 2 / beta, times
beta / 2 without). Both references are numbers per row, computed once before training. Bounded below by 0.
Source: locuslab/open-unlearning@d3d7cf9 src/trainer/utils.py; the factor 2 / beta is theirs and the NPO paper's, the
DPO paper has none (`scaled` False).
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.logprobs import count
from vlm_mu_jax.objectives.npo import check_beta, forget_terms, log_ratio
from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals
from vlm_mu_jax.objectives.reductions import denominators, ratio, token_mean
from vlm_mu_jax.objectives.token_losses import NLL

STREAMS = ("preferred", "forget")
PREFERRED = ("refusal", "idk")  # what `data.forget_retain` writes into the preferred rows


@dataclasses.dataclass(frozen=True)
class DPO(Term):
    """DPO on the pairs of the streams `preferred` and `forget`.

    Attributes:
      preferred: which answers the stream `preferred` holds, refusal or idk.
      beta: how fast the gate closes, above 0.
      reduction: what r is, sequence_sum or token_mean.
      scaled: whether the loss has the factor 2 / beta.
    """

    preferred: str = "refusal"
    beta: float = 0.1
    reduction: str = "sequence_sum"
    scaled: bool = True

    reference_nll_streams = STREAMS

    def __post_init__(self) -> None:
        if self.preferred not in PREFERRED:
            raise InputError(f"objective.preferred: {self.preferred!r} is unknown; use one of {', '.join(PREFERRED)}")
        if self.reduction not in ("sequence_sum", "token_mean"):
            raise InputError(
                f"objective.reduction: {self.reduction!r} is no reduction of DPO, which compares single answers; "
                "use sequence_sum or token_mean"
            )
        check_beta("beta", self.beta)

    def reads(self) -> dict[str, Read]:
        return {name: Read((NLL(),)) for name in STREAMS}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators("forget", rows["forget"]) | denominators("preferred", rows["preferred"])

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        def of(name: str) -> Array:
            batch = rows[name]
            return log_ratio(seen[name].sums[NLL()], batch.reference_nll_B, count(batch.mask_BT), self.reduction)

        margin_B = of("forget") - of("preferred")
        value = ratio(forget_terms(margin_B, self.beta, self.scaled).sum(), totals["forget_rows"])
        metrics = {f"{name}_nll": token_mean(name, seen[name].sums[NLL()], totals) for name in STREAMS}
        right = ratio((margin_B > 0).astype(jnp.float32).sum(), totals["forget_rows"])
        return value, {"forget_loss": value, "preference_accuracy": right, **metrics}
