"""Reading an option off a free answer, as the public parsers do."""

import pytest

from vlm_mu_jax.evaluation.utility import choice

FOUR = ["red wug", "dax", "blue wug", "zop"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("B. dax", 1),
        ("B.dax", None),  # no space behind the period
        ("B.", None),
        ("(B)", None),
        ("b", None),
        ("The answer is C.", 2),
        ("I think. The answer is C, since", 2),  # any character may stand behind the letter
        ("The answer is C", None),  # but one must
        ("The answer is A. The answer is B.", None),  # exactly one
        ("E", None),  # no such option here
        ("The answer is Z.", None),
        ("", None),
        ("dax", None),
    ],
)
def test_scienceqa(answer, index):
    assert choice.scienceqa(answer, FOUR) == index


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("(B)", 1),
        ("B. dax", 1),
        ("It is B, I think", 1),
        ("A or B", None),
        ("A cat on the mat.", None),  # the letter stands too far in front to be the answer
        ("A cat on the mat is what it shows: the dax", 1),
        ("The picture shows that it is B", 1),
        ("B, since it has the two marks", None),
        ("Cannot determine the answer: B", None),
        ("dax", 1),
        ("It is the dax", 1),
        ("wug", None),  # in no option's whole text
        ("red wug and dax", None),  # two options
        ("E", None),
        ("dax " * 30, None),  # over twice as long as all options
        ("", None),
    ],
)
def test_mmbench(answer, index):
    assert choice.mmbench(answer, FOUR) == index
