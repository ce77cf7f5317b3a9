"""Judges: judge(question, answer, record) -> Label, or many at once with `judge_many`.

`exact` judges know the right answer (oracle). Keyword and rules judges see refusals and irrelevance, not harm. Judges
that ask a model (`model_judge.py`: our decoder or a server) see harm or relevance; `cli/judge_flags.py` makes them.
"""

from pathlib import Path
from typing import Protocol

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges.case import BatchJudge, Case, judge_many
from vlm_mu_jax.evaluation.judges.degenerate import degeneracy, is_degenerate
from vlm_mu_jax.evaluation.judges.keyword import KeywordJudge, SeedKeywordJudge
from vlm_mu_jax.evaluation.judges.label import LABELS, Label
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge
from vlm_mu_jax.evaluation.judges.rules import RulesJudge

NAMES = ("oracle", "keyword", "keyword_seed", "rules")

__all__ = [
    "LABELS",
    "NAMES",
    "BatchJudge",
    "Case",
    "Judge",
    "KeywordJudge",
    "Label",
    "OracleJudge",
    "RulesJudge",
    "SeedKeywordJudge",
    "available",
    "degeneracy",
    "get",
    "is_degenerate",
    "judge_many",
]


class Judge(Protocol):
    """A judge: `name` keys its labels in answers files; `exact` says whether "answered" means answered right."""

    name: str
    exact: bool

    def __call__(self, question: str, answer: str, record: Record) -> Label: ...


def get(name: str, data_dir: str | Path | None = None) -> Judge:
    """The judge of that name; `oracle` reads `oracle.json` from the data folder. InputError for an unknown name."""
    if name == "keyword":
        return KeywordJudge()
    if name == "keyword_seed":
        return SeedKeywordJudge()
    if name == "rules":
        return RulesJudge()
    if name == "oracle":
        return OracleJudge.from_file(Path(data_dir or ".") / "oracle.json")
    raise InputError(f"--judge={name}: there is no such judge; choose from {', '.join(NAMES)}")


def available(data_dir: str | Path) -> dict[str, Judge]:
    """Every judge that can work on this data folder by itself, the best one first."""
    names = [n for n in NAMES if n != "oracle" or (Path(data_dir) / "oracle.json").exists()]
    return {name: get(name, data_dir) for name in names}
