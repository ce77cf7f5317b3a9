"""The numbers of each utility set from answers to its own tiny questions, and intervals of composite scores."""

import numpy as np
import pytest

from tests.data import upstream
from vlm_mu_jax.data.readers import catalogue
from vlm_mu_jax.evaluation import utility
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.utility import mmvet, scores


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    upstream.utility(folder)
    return folder


def scored(root, name, *texts, labels=None):
    """The set's numbers when its questions are answered with these texts, in their order."""
    items = {item.id: item for item in catalogue.read(catalogue.get(name), root)}
    answers = [
        Answer(key, Condition(), None, "", item.question, text, 1, labels or {})
        for (key, item), text in zip(items.items(), texts, strict=True)
    ]
    found = utility.score(name, answers, items)
    values = {key: value.value for key, value in found.items() if isinstance(value, scores.Score)}
    assert utility.headline(name) in found
    return values, found, utility.per_question(name, answers, items)


def test_vqa_sets_report_every_variant_by_name(root):
    values, found, each = scored(root, "vqav2", "two")  # seven people say "2", one "two": eight of ten
    assert values == {"vqa_official": 1.0, "vqa_m4c": 1.0, "vqa_simple": pytest.approx(1 / 3)}
    assert found["by_answer_type"]["number"].n == 1 and each == {"420": 1.0}
    assert scored(root, "textvqa", "Stop.")[0] == {"vqa_official": 0.0, "vqa_m4c": 1.0, "vqa_simple": 0.0}
    assert utility.headline("textvqa") == "vqa_m4c" and utility.headline("vizwiz") == "vqa_official"
    assert scored(root, "vizwiz", "can")[0]["vqa_official"] == 1.0


def test_scienceqa_counts_questions_with_images_apart(root):
    values, found, _ = scored(root, "scienceqa", "B", "It may be B")
    assert values == {"accuracy": 0.5, "img_accuracy": 0.0, "unread": 0.5} and found["img_accuracy"].n == 1


def test_gqa_needs_the_exact_word(root):
    values, found, _ = scored(root, "gqa", "Yes.", "a cup")
    assert values == {"accuracy": 0.5, "binary": 1.0, "open": 0.0}


def test_pope_and_mme_use_their_own_readings(root):
    assert scored(root, "pope_random", "Yes", "Yes")[0]["f1"] == pytest.approx(2 / 3)
    assert scored(root, "pope_random", "Yes", "wug")[0]["unread"] == 0.5
    values, found, _ = scored(root, "mme", "Yes", "No", "Yes", "It is no dog")
    assert found["by_category"]["artwork"]["score"].value == 200
    assert found["by_category"]["existence"]["score"].value == 50
    assert values == {"perception": None, "cognition": None, "unread": 0.25}


def test_mmbench_is_right_only_when_all_rotations_are(root):
    assert scored(root, "mmbench", "B", "A")[0] == {"accuracy": 1.0, "accuracy_circular": 1.0, "unread": 0.0}
    values, _, each = scored(root, "mmbench", "B", "B")
    assert values["accuracy"] == 1.0 and values["accuracy_circular"] == 0.0 and each == {"241": 0.0}


def test_mmvet_means_the_grades_and_says_what_has_none(root):
    labels = {"mmvet:some-model": {"label": "answered", "probability": 0.5, "abstain": False, "error": None}}
    values, found, _ = scored(root, "mmvet", "x = -1", labels=labels)
    assert values == {"grade": 0.5, "ungraded": 0.0} and found["by_capability"]["math"].value == 0.5
    assert scored(root, "mmvet", "x = -1")[0] == {"grade": None, "ungraded": 1.0}


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.5", 0.5),
        (" 1.0\n", 1.0),
        ("Grade: 0.3", 0.3),
        ("0", 0.0),
        ("1.5", None),
        ("10", None),
        ("good", None),
        ("", None),
        ("0.5.", 0.5),
        ("-1", None),
    ],
)
def test_reading_a_grade(reply, grade):
    assert mmvet.read_grade(reply) == grade


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        found = scores.mean(list(rng.choice([0, 0.3, 0.6, 1], 60)))
        covered += found.low <= 0.475 <= found.high
    assert 88 <= covered <= 99  # 95 of 100 in the long run; 88 or fewer by chance in 1 of 200


def test_a_score_at_its_end_has_no_zero_width_interval():
    assert scores.mean([1.0] * 10).low == pytest.approx(0.7225, abs=1e-3)  # Wilson
    assert scores.mean([0.5] * 10) == scores.Score(0.5, 10, None, None)
    assert scores.mean([]) == scores.Score(None, 0, None, None)
