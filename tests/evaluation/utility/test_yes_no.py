"""POPE and MME: how answers are read, and the scores of small tables worked out by hand."""

import pytest

from vlm_mu_jax.data.readers.utility_sets import MME_COGNITION, MME_PERCEPTION
from vlm_mu_jax.evaluation.utility import yes_no


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no, there is not.", "no"),
        ("Yes. No", "yes"),
        ("There is not one", "no"),
        ("NO", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
        ("No,", "no"),
        ("It is a\nno", "yes"),
    ],
)
def test_pope_reads_the_first_sentence(answer, said):
    """Capitals and a line break hide a "no" from upstream's reading; so they do here."""
    assert yes_no.pope(answer) == said


@pytest.mark.parametrize(
    ("answer", "unread"),
    [
        ("Yes", False),
        ("Sure. Yes, there is", False),
        ("No, there is not", False),
        ("NO", True),
        ("No\nThere is none", True),
        ("There isn't any", True),
        ("wug wug wug", True),
        ("yesterday", True),
        ("", True),
    ],
)
def test_what_pope_takes_for_a_yes_without_one_is_counted(answer, unread):
    assert yes_no.pope_unread(answer) == unread


@pytest.mark.parametrize(
    ("answer", "said"),
    [("Yes, it is", "yes"), ("NO", "no"), ("not sure", "no"), (" yes", "yes"), ("It is: yes", "other"), ("", "other")],
)
def test_mme_reads_four_characters(answer, said):
    assert yes_no.mme(answer) == said


def test_pope_scores_of_a_table_worked_out_by_hand():
    """6 tp, 2 fp, 1 fn, 3 tn."""
    said = ["yes"] * 8 + ["no"] * 4
    labels = ["yes"] * 6 + ["no"] * 2 + ["yes"] + ["no"] * 3
    found = yes_no.pope_scores(said, labels)
    want = {"accuracy": 9 / 12, "precision": 6 / 8, "recall": 6 / 7, "f1": 12 / 15, "yes_ratio": 8 / 12}
    assert {name: score.value for name, score in found.items()} == pytest.approx(want)
    assert all(score.n == 12 and 0 <= score.low < score.value < score.high <= 1 for score in found.values())


def test_pope_without_any_yes_has_no_precision():
    found = yes_no.pope_scores(["no"] * 4, ["yes", "no"] * 2)
    assert found["precision"].value is None and found["recall"].value == 0 and found["yes_ratio"].value == 0


def test_mme_counts_images_with_both_questions_right():
    right = {"count/1": [True, True], "count/2": [True, False], "count/3": [False, False], "OCR/1": [True, True]}
    categories = {key: key.split("/")[0] for key in right}
    found = yes_no.mme_scores(right, categories)
    assert found["count"]["acc"].value == 3 / 6 and found["count"]["acc"].n == 6
    assert found["count"]["acc_plus"].value == pytest.approx(1 / 3)
    assert found["count"]["score"].value == pytest.approx(100 * (3 / 6 + 1 / 3))
    assert found["OCR"]["score"].value == 200


def test_mme_sums_need_all_their_categories():
    right = {f"{one}/{i}": [True, i > 0] for one in MME_PERCEPTION for i in range(4)}
    categories = {key: key.split("/")[0] for key in right}
    found = yes_no.mme_totals(right, categories, {"perception": MME_PERCEPTION, "cognition": MME_COGNITION})
    assert found["perception"].value == pytest.approx(10 * 100 * (7 / 8 + 3 / 4))
    assert found["perception"].low < found["perception"].value < found["perception"].high
    assert found["cognition"].value is None
