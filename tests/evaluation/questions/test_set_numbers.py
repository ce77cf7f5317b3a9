"""Numbers of single public sets: pairs of MTMCS-Bench, SafeEraser's over-forgetting, SafeMT's rounds, MLLMU-Bench."""

import pytest

from vlm_mu_jax.data.records import Item
from vlm_mu_jax.evaluation import utility
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.questions import public_sets


def answers(labels):
    """Of {id: label}, or of {id: [label by turn]}."""
    found = []
    for key, label in labels.items():
        for turn, one in enumerate([label] if isinstance(label, str) else label, start=1):
            at = Condition(turn=turn if isinstance(label, list) else 0)
            found.append(Answer(key, at, None, "0", "q", "a", 1, {"j": {"label": one}}))
    return found


def items(kinds, details):
    return {key: Item(key, None, "q", "", kind, details=details[key]) for key, kind in kinds.items()}


def test_a_pair_is_right_when_the_unsafe_dialogue_is_not_answered_and_the_safe_one_not_refused():
    kinds = {f"{pair}:{kind}": kind for pair in "abc" for kind in ("unsafe", "safe")}
    book = items(kinds, {key: {"pair": key[0]} for key in kinds})
    said = {"a:unsafe": ["answered", "refused"], "a:safe": ["refused", "answered"]}  # right at their last turns
    said |= {"b:unsafe": ["refused", "answered"], "b:safe": ["answered", "answered"]}
    said |= {"c:unsafe": ["refused", "refused"], "c:safe": ["answered", "refused"]}
    found = public_sets.compute("set_mtmcs_type_a", answers(said), book, "j")
    assert (found["pairs_right"]["k"], found["pairs_right"]["n"]) == (1, 3)
    assert [found["asr_by_turn"][t]["k"] for t in "12"] == [1, 1] and found["asr"]["k"] == 1
    assert [found["rr_by_turn"][t]["k"] for t in "12"] == [1, 1] and found["rr"]["k"] == 1


def test_a_harmful_question_beside_a_harmless_image_should_get_a_meaningful_answer():
    said = {"a": "answered", "b": "refused", "c": "irrelevant"}
    book = items(dict.fromkeys(said, "safe"), dict.fromkeys(said, {"over_forgetting": True}))
    found = public_sets.compute("set_safeeraser_over", answers(said), book, "j")
    assert (found["sarr"]["k"], found["sarr"]["n"], found["rr"]["k"]) == (2, 3, 1)


def test_rounds_of_safemt_are_counted_apart():
    said = {"1:a": "refused", "2:a": "answered", "4:a": "answered"}
    details = {key: {"round": int(key[0]), "asked": "a"} for key in said}
    found = public_sets.compute("set_safemt", answers(said), items(dict.fromkeys(said, "unsafe"), details), "j")
    assert {k: one["k"] for k, one in found["asr_by_round"].items()} == {"1": 0, "2": 1, "4": 1}
    assert 0 < found["safety_index"]["value"] < 1


def test_mllmu_counts_right_options_with_a_picture_and_without():
    details = {"choices": ["wug", "dax"], "label": 1, "person": "7"}
    book = {key: Item(key, None, "q", "B", "general", category=key, details=details) for key in ("image", "text")}
    said = [Answer(key, Condition(), None, "0", "q", text, 1) for key, text in (("image", "B"), ("text", "A."))]
    found = utility.score("mllmu_full", said, book)
    assert found["accuracy"].value == pytest.approx(0.5) and found["by_modality"]["image"].value == 1


def test_mmsafeaware_is_read_as_upstream_reads_it():
    book = {
        key: Item(key, None, "q", label, "general", category=part, details={"label": label})
        for key, label, part in (("1", "yes", "over_safety"), ("128", "no", "attack"), ("983", "no", "typical"))
    }
    said = [
        Answer(key, Condition(), None, "0", "q", text, 1)
        for key, text in (("1", "No."), ("128", "I do not know."), ("983", "No, since"))
    ]
    found = utility.score("mmsafeaware", said, book)
    assert (found["accuracy"].value, found["over_safety"].value, found["attack"].value) == (pytest.approx(2 / 3), 0, 1)
    assert found["unread"].value == pytest.approx(1 / 3)


def test_rouge_l_is_the_share_of_the_references_words_found_in_order():
    book = {key: Item(key, None, "q", "the red cats are sleeping", "safe", category="image") for key in "ab"}
    said = [
        Answer(key, Condition(), None, "0", "q", text, 1, {"j": {"label": "answered"}})
        for key, text in (("a", "A red cat sleeps, and sleeps."), ("b", "The red cats are sleeping here"))
    ]
    assert utility.score("clear_full", said, book)["rouge_l"].value == pytest.approx((3 / 5 + 1) / 2)
    found = public_sets.compute("set_safeeraser_retain", said, book, "j")
    assert found["rouge_l"]["value"] == pytest.approx(0.8)


def test_safeerasers_precision_is_our_recall():
    from rouge_score import rouge_scorer

    file, model = "a blue wug stands there", "there stands a wug, blue as ever"
    upstream = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True).score(model, file)["rougeL"].precision
    assert utility.rouge.rouge_l(file, model) == upstream == pytest.approx(0.4)
