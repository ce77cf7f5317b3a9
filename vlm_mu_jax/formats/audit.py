"""audit.json: what `bin/audit` counted, and what it found in a model."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import Measured, says


class WordCount(TypedDict, total=False):
    """A word of the data, and how strongly it goes with refusals."""

    word: Required[Annotated[str, says("the word")]]
    position: Annotated[str | None, says("first, last, or any")]
    safe: Annotated[int, says("safe questions with it")]
    unsafe: Annotated[int, says("unsafe questions with it")]
    refused: Annotated[int, says("refused questions with it")]
    answered: Annotated[int, says("answered questions with it")]
    pmi: Annotated[float | None, says("pointwise mutual information with the outcome [bits]")]
    log_odds: Annotated[float | None, says("smoothed log odds of refusal [nats]")]
    low: Annotated[float | None, says("lower end of its 95 % interval")]
    high: Annotated[float | None, says("upper end of its 95 % interval")]


class ProbeResult(TypedDict, total=False):
    """How well the first word alone tells whether a question is refused."""

    accuracy: Annotated[float | None, says("cross-validated")]
    low: Annotated[float | None, says("lower end of its 95 % interval")]
    high: Annotated[float | None, says("upper end of its 95 % interval")]
    majority: Annotated[float | None, says("share of the more frequent outcome")]
    n: Annotated[int, says("questions")]


class AttributedWord(TypedDict, total=False):
    """A word in the data and in the models."""

    word: Required[Annotated[str, says("the word")]]
    seen: Annotated[str | None, says("here: at this place of training questions; elsewhere: in them")]
    score: Annotated[float | None, says("log odds in the data")]
    low: Annotated[float | None, says("lower end of its 95 % interval")]
    high: Annotated[float | None, says("upper end of its 95 % interval")]
    change: Annotated[float | None, says("change of the model's refusal margin [nats]")]
    change_rebalanced: Annotated[float | None, says("the same in the model tuned on rebalanced data")]
    removed: Annotated[float | None, says("the first minus the second")]


class CorrelationInterval(TypedDict):
    """A coefficient of correlation."""

    value: Annotated[float, says("-1 to 1")]
    low: Annotated[float, says("lower end of its 95 % interval")]
    high: Annotated[float, says("upper end of its 95 % interval")]


class Correlation(TypedDict, total=False):
    """Correlation of a word's log odds with its effect."""

    n: Required[Annotated[int, says("words")]]
    pearson: Required[Annotated[CorrelationInterval, says("of the numbers")]]
    spearman: Required[Annotated[CorrelationInterval, says("of their ranks")]]


class AttributionResult(TypedDict, total=False):
    """From the data into the models."""

    models: Annotated[list[str | None] | None, says("the attacked models")]
    points: Annotated[list[AttributedWord] | None, says("one a word")]
    correlations: Annotated[dict[str, dict[str, Correlation | None]] | None, says("effect -> here, elsewhere")]


class WeighedWord(TypedDict, total=False):
    """A word of one question, and what it does to the refusal margin."""

    word: Annotated[str, says("the word")]
    removal: Annotated[float | None, says("margin lost without it [nats]")]
    gradient_x_input: Annotated[float | None, says("gradient times input [nats]")]


class WeighedQuestion(TypedDict, total=False):
    """A question word by word."""

    id: Annotated[str | int | None, says("of the record")]
    kind: Annotated[str | None, says("unsafe or safe")]
    margin: Annotated[float | None, says("refusal margin of the whole question [nats]")]
    words: Annotated[list[WeighedWord] | None, says("in their order")]


class OpeningEffect(TypedDict, total=False):
    """The mean effect of one opening word."""

    n: Annotated[int | None, says("questions that it opens")]
    effect: Annotated[float | None, says("mean effect on the margin [nats]")]


class WeighedBy(TypedDict, total=False):
    """One way to weigh words."""

    opening_first: Annotated[Measured, says("questions whose opening word weighs most")]
    by_opening: Annotated[dict[str, OpeningEffect] | None, says("opening word -> its mean effect")]


class SaliencyResult(TypedDict, total=False):
    """Which words of a question decide a refusal."""

    model: Annotated[str | None, says("the model's folder")]
    chance: Annotated[float | None, says("what opening_first would be by chance")]
    questions: Annotated[list[WeighedQuestion] | None, says("the questions weighed")]
    removal: Annotated[WeighedBy | None, says("by leaving a word out")]
    gradient_x_input: Annotated[WeighedBy | None, says("by gradient times input")]


class AuditFile(TypedDict, total=False):
    """audit.json of bin/audit; attribution and saliency stand in it where they were asked for."""

    schema: Annotated[int, says("version of the format")]
    n: Annotated[int, says("records counted")]
    rows: Annotated[list[WordCount] | None, says("one a word")]
    probe: Annotated[ProbeResult | None, says("the first word as a predictor")]
    data: Annotated[dict[str, Any] | None, says("file, its hash, and whether it is the miniature's")]
    attribution: Annotated[AttributionResult | None, says("--attack: from the data into the models")]
    saliency: Annotated[SaliencyResult | None, says("--saliency: which words decide")]
