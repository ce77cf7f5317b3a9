"""How many questions it takes to show a difference between two models."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.evaluation import statistics


def advice(run: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], difference: float) -> str | None:
    """One line on how many questions show a difference of attack success (after the attack, if there is one).

    Args:
      run: an entry of `results.json`.
      comparisons: its paired tests, whose share of discordant answers is used where attack success is among them.
      difference: to be shown with 80 % power at p < 0.05, in 0..1.

    Returns:
      None where no attack success was measured, or none lies so far away.
    """
    name = next((n for n in ("asr_after", "asr_before") if run["metrics"].get(n, {}).get("n")), None)
    if name is None:
        return None
    metric, d = run["metrics"][name], difference
    rate = min(max(metric["value"], 0.0), 1.0)
    if rate < d and rate + d > 1:
        return None
    paired = next((c for c in comparisons if c["metric"] == name and c["n"]), None)
    seen = (paired["b"] + paired["c"]) / paired["n"] if paired else None
    discordant = max(d, statistics.independent_discordance(rate, d) if seen is None else seen)
    source = "as against the baseline" if seen is not None and seen >= d else "at most"
    return (
        f"to show a difference of {100 * d:g} points in {name} (power 80 %, p < 0.05):"
        f" {statistics.pairs_needed(d, discordant)} questions asked of both models"
        f" (answers differ on {100 * discordant:.0f} % of them, {source}),"
        f" or {statistics.questions_needed(rate, d)} different ones each; here {metric['n']}"
    )
