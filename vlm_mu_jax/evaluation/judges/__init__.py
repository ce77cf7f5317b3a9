"""Judges: judge(question, answer, record) -> Label. `exact` judges know the right answer; others only see refusals."""

from pathlib import Path
from typing import Protocol

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges.keyword import KeywordJudge, SeedKeywordJudge
from vlm_mu_jax.evaluation.judges.label import LABELS, Label, is_degenerate
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge

NAMES = ("oracle", "keyword", "keyword_seed")

__all__ = [
    "LABELS",
    "NAMES",
    "Judge",
    "KeywordJudge",
    "Label",
    "OracleJudge",
    "SeedKeywordJudge",
    "available",
    "get",
    "is_degenerate",
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
    if name == "oracle":
        return OracleJudge.from_file(Path(data_dir or ".") / "oracle.json")
    raise InputError(f"--judge={name}: there is no such judge; choose from {', '.join(NAMES)}")


def available(data_dir: str | Path) -> dict[str, Judge]:
    """Every judge that can work on this data folder, the best one first."""
    names = [n for n in NAMES if n != "oracle" or (Path(data_dir) / "oracle.json").exists()]
    return {name: get(name, data_dir) for name in names}
