"""Public sets inside an evaluation: their questions, sampling that keeps groups whole, and their numbers."""

import pytest

from tests.data import upstream
from vlm_mu_jax.data.readers import catalogue
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.questions import public_sets
from vlm_mu_jax.evaluation.questions.suite import Suite, sample
from vlm_mu_jax.evaluation.results import rates

EMPTY = Suite({}, {}, {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    upstream.safety(folder)
    upstream.utility(folder)
    return folder


def answered(suite, name, texts, labels):
    """Answers to a set's questions, labelled by a judge named `j`."""
    return [
        Answer(
            q.id,
            q.condition,
            None,
            "",
            q.text,
            text,
            1,
            {"j": {"label": label, "probability": None, "abstain": False, "error": None}},
        )
        for q, text, label in zip(suite.sets[name], texts, labels, strict=True)
    ]


def test_sets_join_the_suite_with_their_images_and_hashes(root):
    suite = public_sets.extend(EMPTY, ["xstest", "pope_random"], root)
    assert list(suite.sets) == ["set_xstest", "set_pope_random"]
    assert suite.notes[0].startswith("xstest: 2 questions in ") and suite.notes[0].endswith("published are 450")
    text_only, pictured = suite.sets["set_xstest"][0], suite.sets["set_pope_random"][0]
    assert text_only.image is None and text_only.condition.image == "none"
    assert pictured.image == root / "pope/val2014/COCO_val2014_000000000042.jpg"
    assert suite.records["set_pope_random"]["2"].details == {"label": "no"}
    assert set(suite.files) == {"xstest/xstest_prompts.csv", "pope/coco_pope_random.json"}


def test_shots_of_one_question_are_one_unit(root):
    suite = public_sets.extend(EMPTY, ["one_word_what"], root)
    asked = suite.sets["set_one_word_what"]
    assert [(q.id, q.condition.shot, q.condition.word) for q in asked] == [("u1", i, "what") for i in range(3)]
    answers = answered(suite, "set_one_word_what", "abc", ["refused", "answered", "refused"])
    found = public_sets.compute("set_one_word_what", answers, suite.records["set_one_word_what"], "j")
    assert (found["asr"]["value"], found["asr"]["n"]) == (1.0, 1)


def test_sampling_keeps_groups_whole_and_kinds_apart(root):
    for name, kept in (("mme", 2), ("mmbench", 2), ("one_word_what", 3), ("xstest", 2)):
        records = catalogue.read(catalogue.get(name), root)
        one, again = (sample(records, 1, seed=5, unit=lambda item: item.group) for _ in range(2))
        assert [r.id for r in one] == [r.id for r in again] and len(one) == kept
    assert sample(records, None, 0) is records


def test_a_set_is_measured_by_what_it_asks(root):
    suite = public_sets.extend(EMPTY, ["xstest", "scienceqa", "vqav2"], root)
    sets = {
        "set_xstest": answered(suite, "set_xstest", "ab", ["refused", "answered"]),
        "set_scienceqa": answered(suite, "set_scienceqa", ["B", "A"], ["answered", "refused"]),
        "set_vqav2": answered(suite, "set_vqav2", ["2"], ["answered"]),
    }
    found = rates.compute(sets, suite.records, "j", exact=False, max_new_tokens=8)["sets"]
    assert found["xstest"]["rr"]["value"] == 1.0 and found["xstest"]["asr"]["value"] == 1.0
    assert found["scienceqa"]["accuracy"]["value"] == 0.5 and found["scienceqa"]["rr"]["value"] == 0.5
    shown = public_sets.rows(found)
    assert ("scienceqa", "accuracy", "50.0 % [9.5, 90.5] n=2") in shown
    assert ("", "unread", "0.0 % [0.0, 65.8] n=2") in shown
    compared = rates.compare("now", sets, "before", sets, suite.records, "j", exact=False)
    assert {c["metric"] for c in compared} == {"sets/xstest/rr", "sets/xstest/asr", "sets/scienceqa/right"}
    assert all(c["b"] == c["c"] == 0 for c in compared)


def test_answers_to_utility_sets_do_not_count_as_unjudged(root):
    suite = public_sets.extend(EMPTY, ["xstest", "pope_random"], root)
    answers = {name: answered(suite, name, "ab", ["refused", "refused"]) for name in suite.sets}
    for some in answers.values():
        for answer in some:
            answer.labels["j"] |= {"label": None, "error": "no entry"}
    assert rates.unjudged(answers, "j") == {"errors": 2, "abstained": 0}


def test_sets_that_cannot_be_asked_are_input_errors(root):
    with pytest.raises(InputError, match="reads text only"):
        public_sets.extend(EMPTY, ["pope_random"], root, with_images=False)
    assert public_sets.extend(EMPTY, ["xstest"], root, with_images=False).sets
    with pytest.raises(InputError, match="no data set 'pop'"):
        public_sets.extend(EMPTY, ["pop"], root)
    with pytest.raises(InputError, match="siuo: holds no data/siuo_gen.json"):
        public_sets.extend(EMPTY, ["siuo"], root / "none")
