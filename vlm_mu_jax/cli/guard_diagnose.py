"""bin/guard diagnose: what an image does to the model's states and, with --answers, to its answers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import guard_extract, guard_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs

if TYPE_CHECKING:
    from vlm_mu_jax.storage.model_folder import Model

_LAYER = flags.DEFINE_integer("layer", None, "diagnose: layer of the PCA; the middle one without it", lower_bound=0)
_ANSWERS = flags.DEFINE_bool(
    "answers", False, "diagnose: answer every request in every condition too; refusals, length and perplexity"
)
_PERPLEXITY_MODEL = flags.DEFINE_string(
    "perplexity_model", None, "diagnose --answers: model folder that scores answers (default: the language tower)"
)

NEEDS = (guard_flags.DATA,)


def job_from_flags() -> Callable[["Model"], None]:
    """What is done with the model; the flags and the files that they name are read and checked now."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.guards.diagnose_guard import DiagnoseOptions, diagnose_guard
    from vlm_mu_jax.storage import model_folder

    out, requests = outputs.check_writable(guard_flags.OUT.value), guard_flags.requests_from_flags()
    for folder in filter(None, (guard_extract.LLM.value, _PERPLEXITY_MODEL.value)):
        model_folder.find(folder)
    if _PERPLEXITY_MODEL.value and not _ANSWERS.value:
        raise InputError("--perplexity_model scores answers; add --answers")
    options = DiagnoseOptions(
        layer=_LAYER.value,
        blank=guard_flags.BLANK.value,
        llm=guard_extract.LLM.value,
        answers=_ANSWERS.value,
        perplexity_model=_PERPLEXITY_MODEL.value,
        max_new_tokens=guard_flags.TOKENS.value,
        batch_size=guard_flags.BATCH.value,
    )
    judge = guard_flags.judge_from_flags() if _ANSWERS.value else None
    give_guard = guard_extract.guard_or_extraction_from_flags()

    def run(model: "Model") -> None:
        found = diagnose_guard(model, give_guard(model), requests, judge, options, progress=progress.bar)
        found.save(out)
        print(found.table())

    return run
