"""Judges: judge(question, answer, record) -> Label, or many at once with `judge_many`.

`oracle` knows the right answers of its data. `refusal`, `keyword`, `keyword_seed` and `rules` see refusals and
degenerate answers, not harm. Judges that ask a model (our own decoder or a server) see harm or relevance. `choose`
makes any of them from its name; a judge of your own is any object of the type `Judge`.
"""

from vlm_mu_jax.evaluation.judges.case import BatchJudge, Case, Judge, judge_many
from vlm_mu_jax.evaluation.judges.choice import (
    BY_MODEL,
    NAMES,
    SEE_REFUSALS_ONLY,
    ChosenJudges,
    JudgeOptions,
    available,
    choose,
    get,
)
from vlm_mu_jax.evaluation.judges.degenerate import degeneracy, is_degenerate
from vlm_mu_jax.evaluation.judges.keyword import KeywordJudge, SeedKeywordJudge
from vlm_mu_jax.evaluation.judges.label import LABELS, Label
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge
from vlm_mu_jax.evaluation.judges.refusal import RefusalJudge
from vlm_mu_jax.evaluation.judges.rules import RulesJudge

__all__ = [
    "BY_MODEL",
    "LABELS",
    "NAMES",
    "SEE_REFUSALS_ONLY",
    "BatchJudge",
    "Case",
    "ChosenJudges",
    "Judge",
    "JudgeOptions",
    "KeywordJudge",
    "Label",
    "OracleJudge",
    "RefusalJudge",
    "RulesJudge",
    "SeedKeywordJudge",
    "available",
    "choose",
    "degeneracy",
    "get",
    "is_degenerate",
    "judge_many",
]
