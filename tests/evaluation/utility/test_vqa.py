"""VQA accuracy in its three variants: upstream's public cases, its quirks, and cases worked out by hand."""

import pytest

from vlm_mu_jax.evaluation.utility import vqa


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("two", "2"),
        ("a building", "building"),
        ("snow, mountain", "snow mountain"),
        ("isnt", "isn't"),
        ("the two mountain's \t \n   ", "2 mountain 's"),
    ],
)
def test_public_cases_of_the_m4c_normalisation(text, normal):
    """facebookresearch/mmf:tests/datasets/test_processors.py, test_evalai_answer_processor."""
    assert vqa.normalise_m4c(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog.", "dog"),  # article, case, period
        ("None", "0"),
        ("TEN", "10"),
        ("an a the", ""),
        ("dont", "don't"),
        ("y'allll", "y'all'll"),
        ("yall'd've", "y'all'd've"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),  # upstream's entry is the wrong way round
        ("Im", "im"),  # upstream's entry has a capital and never matches
        ("a-b", "b"),  # a mark between letters becomes a space, and then there is an article
        ("x-y", "x y"),
        ("x- y-z", "x yz"),  # the mark touches a space somewhere, so it goes everywhere
        ("1,000-2", "10002"),  # a number with a comma: all marks go
        ("x,y", "x y"),
        ("3.5", "3.5"),
        ("3.", "3"),  # upstream's guard for a digit before the period is mistyped
        (".5", ".5"),
        ("a.m.", "am"),
        ("." * 33, "."),  # a flag is passed as the count: 32 periods go
        ("what's\tup\n", "what's up"),
    ],
)
def test_official_normalisation_with_its_quirks(text, normal):
    assert vqa.normalise(text) == normal


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_each_person_is_left_out_once(matches, score):
    """One match of ten: nine people see 1/3, the matching one sees none: 9 / 10 / 3."""
    people = ["dog"] * matches + [f"cat {i}" for i in range(10 - matches)]
    assert vqa.official("dog", people) == pytest.approx(score)
    assert vqa.m4c("dog", people) == pytest.approx(score)
    assert vqa.simple("dog", people) == pytest.approx(min(1, matches / 3))


def test_the_variants_are_not_the_same():
    agreed = ["two dogs"] * 10
    assert vqa.official("Two dogs", agreed) == 1  # only the case is ignored where all people agree
    assert vqa.official("2 dogs", agreed) == 0  # since nothing is normalised there
    assert vqa.m4c("2 dogs", agreed) == 1
    assert vqa.official("2 dogs", ["two dogs"] * 9 + ["cat"]) == 1
    assert vqa.simple("2 dogs", ["two dogs"] * 9 + ["cat"]) == 0
    assert vqa.simple("The dog", ["dog"] * 10) == 0
    assert vqa.m4c("mountain's", ["mountain 's"] * 10) == 1
    assert vqa.official("mountain's", ["mountain 's"] * 9 + ["cat"]) == 0


def test_scoring_changes_nothing():
    people = ["The dog", "a dog"] * 5
    assert vqa.official("dog", people) == vqa.official("dog", people) == 1
    assert people == ["The dog", "a dog"] * 5
