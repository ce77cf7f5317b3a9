"""results.json: what `bin/eval` measured."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import ComparisonRow, Metrics, says


class RunEntry(TypedDict, total=False):
    """One evaluated model."""

    name: Required[Annotated[str, says("--name")]]
    kind: Annotated[str | None, says("--kind: base, sft, npo, rmu, guard, ...")]
    seed: Annotated[int | None, says("--seed")]
    judge: Annotated[str, says("who judged")]
    metrics: Required[Annotated[Metrics, says("rates by name; some are trees of rates")]]
    unjudged: Annotated[dict[str, int] | None, says("answers without a verdict: errors, abstained, too_long")]
    attack_turn: Annotated[str | None, says("--turn: the question of dialogues that the attack's words open")]
    null_control: Annotated[dict[str, Any] | None, says("the attack's words against as many neutral ones")]
    defence: Annotated[dict[str, Any] | None, says("name and cost of the defence")]


class ResultsFile(TypedDict, total=False):
    """results.json of bin/eval, and the merged file that bin/report writes."""

    schema: Required[Annotated[int, says("version of the format")]]
    runs: Required[Annotated[list[RunEntry], says("one entry a model")]]
    comparisons: Annotated[list[ComparisonRow] | None, says("paired tests against --baseline")]
    provenance: Annotated[dict[str, Any] | None, says("checkpoint, data, versions and device")]
