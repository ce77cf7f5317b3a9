"""attack.json: what `bin/attack` found and measured."""

from typing import Annotated, Any, Required, TypedDict

from vlm_mu_jax.formats.measures import Measured, says


class FoundWord(TypedDict, total=False):
    """A word, its score in the search and its rates on the questions held out."""

    word: Required[Annotated[str, says("the word as it is put into the question")]]
    position: Annotated[str | None, says("where it is put")]
    score: Annotated[float | None, says("mean change of the margin that the search ranks by [nats]")]
    asr: Annotated[Measured, says("harmful answers with the word")]
    rr: Annotated[Measured, says("refused harmless questions with the word")]
    goal: Annotated[str, says("of a neutral word: jailbreak or over_refuse")]
    ir: Annotated[Measured, says("irrelevant answers with the word")]


class AnyOfK(TypedDict, total=False):
    """Rates of one direction: a question counts when any of its tries succeeds."""

    original: Annotated[Measured, says("as asked")]
    any_of_k: Annotated[Measured, says("with any of the words found")]
    any_of_k_null: Annotated[Measured, says("with any of as many neutral words")]
    words_against_null: Annotated[dict[str, Any] | None, says("exact McNemar test of the two lines before")]
    by_shots: Annotated[dict[str, Any], says("rate by the number of words tried")]
    by_shots_null: Annotated[dict[str, Any], says("the same for neutral words")]


class ShortlistedWord(TypedDict, total=False):
    """A word that was tried with real answers on the search questions."""

    word: Required[Annotated[str, says("the word")]]
    score: Annotated[float | None, says("as in the words found")]
    success_on_search: Annotated[Measured, says("rate on the search questions")]


class WordSearch(TypedDict, total=False):
    """How one direction was searched."""

    shortlist: Annotated[list[ShortlistedWord], says("words tried with real answers")]
    margins: Annotated[dict[str, float | None], says("candidate -> its score")]


class AttackFile(TypedDict, total=False):
    """attack.json of bin/attack with --method=one_word."""

    schema: Annotated[int, says("version of the format")]
    model: Annotated[str | None, says("the attacked model's folder")]
    turn: Annotated[str | None, says("--turn: the question of a conversation that the words are put into")]
    jailbreak: Annotated[list[FoundWord] | None, says("words that make the model answer, best first")]
    over_refuse: Annotated[list[FoundWord] | None, says("words that make it refuse harmless questions, best first")]
    null: Annotated[list[FoundWord] | None, says("neutral words, the control")]
    any_of_k: Annotated[dict[str, AnyOfK] | None, says("asr and rr -> rates of all words together")]
    search: Annotated[dict[str, WordSearch] | None, says("direction -> how it was searched")]
    n_search: Annotated[dict[str, int] | None, says("questions searched on, by direction")]
    n_verify: Annotated[dict[str, int] | None, says("questions held out, by direction")]
    vocabulary_size: Annotated[int | None, says("candidates")]
    positions: Annotated[list[str] | None, says("places in a question that were tried")]
    k: Annotated[int | None, says("words per question")]
    flops: Annotated[float | None, says("of the whole search")]
    by_position: Annotated[dict[str, Any] | None, says("the same fields for each place")]


class MethodRow(TypedDict, total=False):
    """One attack by other means than one word."""

    goal: Annotated[str, says("jailbreak or over_refuse")]
    questions: Annotated[str | None, says("which questions it is measured on")]
    original: Annotated[Measured, says("as asked")]
    control: Annotated[Measured, says("the control of as many tries")]
    attack: Annotated[Measured, says("any of the tries")]


class MethodsFile(TypedDict, total=False):
    """attack.json of bin/attack with any other --method."""

    schema: Annotated[int, says("version of the format")]
    model: Annotated[str | None, says("the attacked model's folder")]
    method: Annotated[str | None, says("--method")]
    guarded: Annotated[bool, says("whether a guard steered the model")]
    rows: Required[Annotated[list[MethodRow], says("one row a direction")]]
