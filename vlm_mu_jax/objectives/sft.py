"""Cross-entropy on answers: language modelling, visual instruction tuning and safety fine-tuning."""

import dataclasses

from jax import Array

from vlm_mu_jax.objectives.policy import Metrics, Policy, Totals, ratio, scored_tokens


@dataclasses.dataclass(frozen=True)
class SFT:
    """Mean NLL per answer token of the global batch, as Hugging Face and LLaVA train.

    The mean is over all answer tokens of the step, whatever the number of devices or micro-batches. Used for `lm`
    (pretraining, where the mask covers every token) and `sft` (refusals on unsafe data, answers on safe data).
    """

    streams = ("train",)
    optional_streams = ()
    needs_reference = False
    reference_nll_streams = ()
    couples_batch = False

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {}

    def denominators(self, rows: dict, image_token_id: int | None) -> Totals:
        return {"tokens": scored_tokens(rows["train"])}

    def loss(self, policy: Policy, rows: dict, totals: Totals) -> tuple[Array, Metrics]:
        nll_B, _ = policy.nll(rows["train"])
        loss = ratio(nll_B.sum(), totals["tokens"])
        return loss, {"train_nll": loss}
