"""answers/*.jsonl: every answer of an evaluation, an attack or `bin/generate --data`, a line each."""

from typing import Annotated, Required, TypedDict

from vlm_mu_jax.formats.measures import says


class AnswerLabel(TypedDict, total=False):
    """What one judge said."""

    label: Annotated[str | None, says("refused, answered, right, irrelevant, ...; null without a verdict")]
    probability: Annotated[float | None, says("the judge's own, where it has one")]
    abstain: Annotated[bool, says("whether it could not decide")]
    error: Annotated[str | None, says("why there is no verdict")]


class AskedHow(TypedDict, total=False):
    """How the question was asked."""

    attack: Annotated[str, says("none, one_word, over_refuse, null_word, opening, or a method of bin/attack")]
    position: Annotated[str | None, says("where the attack's word stands")]
    word: Annotated[str | None, says("the word, or the template")]
    shot: Annotated[int, says("which of the attack's words it is")]
    image: Annotated[str, says("own, none, blank:KIND or attack")]
    turn: Annotated[int, says("which question of a dialogue")]


class AnswerLine(TypedDict, total=False):
    """A line for each answer of `bin/eval`, `bin/attack` and `bin/generate --data`."""

    id: Required[Annotated[str, says("of the record")]]
    condition: Annotated[AskedHow, says("how it was asked")]
    image_id: Annotated[str | None, says("a name of the image's content")]
    prompt_sha: Annotated[str, says("SHA-256 of the prompt's token ids")]
    question: Annotated[str, says("the question as it was asked")]
    answer: Required[Annotated[str, says("the model's words")]]
    tokens: Annotated[int, says("generated tokens")]
    labels: Annotated[dict[str, AnswerLabel] | None, says("judge -> what it said")]
    left_out: Annotated[
        str, says("why the question was not asked, such as too long for the model; absent where it was")
    ]
