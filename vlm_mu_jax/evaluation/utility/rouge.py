"""ROUGE-L against a reference, by the package `rouge_score`, with which published numbers were made."""

import functools
from typing import Any

from vlm_mu_jax.errors import InputError


def rouge_l(reference: str, answer: str) -> float:
    """The longest common subsequence of stemmed words, as a share of the reference's words (recall), in 0..1.

    Sources: CLEAR's "ROUGE" (somvy/multimodal_unlearning@bb14c96:mm/eval.py), and SafeEraser's "ROUGE-L Precision"
    (yuu250/SafeEraser@9e96612:eval_all.py). SafeEraser gives the model's answers the place of the reference, and the
    file's texts that of the prediction, so that its precision is this recall.

    Raises InputError without the package.
    """
    return float(_scorer().score(reference, answer)["rougeL"].recall)


def there() -> bool:
    """Whether the package is installed."""
    try:
        _scorer()
    except InputError:
        return False
    return True


@functools.cache
def _scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise InputError("ROUGE-L needs the package rouge_score; pip install 'vlm_mu_jax[rouge]'") from None
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
