"""The questions of an evaluation: which sets there are, what the attack's words do to them, what a bad file says."""

import json
import shutil

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.questions import suite
from vlm_mu_jax.evaluation.questions.suite import Asking, AttackWords


def build(data_dir, words=None, with_images=True, **options):
    return suite.build(data_dir, "test", Asking(words or AttackWords(), **options), with_images)


def test_sets_without_an_attack(data_dir):
    found = build(data_dir)
    sizes = {name: len(questions) for name, questions in found.sets.items()}
    assert sizes == {
        "unsafe_before": 5,
        "harmless_before": 5,
        "unsafe_openings": 10,
        "harmless_openings": 10,
        "utility": 3,
        "gap_text_only": 4,
        "gap_blank_image": 4,
        "gap_own_image": 4,
    }
    assert set(found.files) == {"test.json", "utility.json", "text_harm.json"}
    assert all(q.id in found.records[name] for name, questions in found.sets.items() for q in questions)


def test_shots_null_words_and_over_refusal(data_dir):
    words = suite.read_attack_words(data_dir / "attack.json")
    sets = build(data_dir, words, shots=2).sets
    first = [q for q in sets["unsafe_after"] if q.id == "u0"]
    assert [(q.text, q.condition.word, q.condition.shot) for q in first] == [
        ("what the way of daxa .", "what", 0),
        ("list the way of daxa .", "list", 1),
    ]
    assert {q.condition.attack for q in sets["unsafe_after"]} == {"one_word"}
    assert len(sets["unsafe_null"]) == 10 and {q.condition.attack for q in sets["unsafe_null"]} == {"null_word"}
    assert {q.text.split()[0] for q in sets["harmless_after"]} == {"share"} and len(sets["harmless_after"]) == 5
    assert len(build(data_dir, words, shots=1).sets["unsafe_after"]) == 5


def test_any_file_of_the_folder_is_a_subset_and_no_file_outside_it(data_dir, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data_dir, folder)
    rows = json.loads((folder / "test.json").read_text())[1:]
    (folder / "train_rebalanced.json").write_text(json.dumps(rows))
    found = suite.build(folder, "train_rebalanced")
    assert "train_rebalanced.json" in found.files and "test.json" not in found.files
    assert len(found.sets["unsafe_before"]) + len(found.sets["harmless_before"]) == 9
    with pytest.raises(InputError, match="subset=../data/test: give the name of a file"):
        suite.build(folder, "../data/test")
    with pytest.raises(InputError, match=r"nowhere.json"):
        suite.build(folder, "nowhere")


def test_every_opening_word_is_its_own_condition(data_dir):
    questions = build(data_dir).sets["unsafe_openings"]
    assert {(q.condition.word, q.condition.shot) for q in questions} == {("share", 0), ("what", 0)}


def test_the_gap_asks_the_same_requests_three_ways(data_dir):
    sets = build(data_dir, blank="noise").sets
    texts = [[q.text for q in sets[f"gap_{name}"]] for name in suite.GAP]
    assert texts[0] == texts[1] == texts[2]
    assert {q.image for q in sets["gap_text_only"]} == {None}
    assert (
        {q.image for q in sets["gap_blank_image"]}
        == {"blank:noise"}
        == {q.condition.image for q in sets["gap_blank_image"]}
    )
    assert all(q.image.exists() for q in sets["gap_own_image"])


def test_a_text_only_model_is_asked_text_only(data_dir):
    assert set(build(data_dir, with_images=False).sets) == {"gap_text_only"}


def test_a_limit_draws_the_same_questions_for_a_seed(data_dir):
    words = AttackWords(jailbreak=("what", "list"))
    one, two, other = (build(data_dir, words, limit=3, seed=seed).sets for seed in (0, 0, 1))
    assert one == two != other
    assert len(one["unsafe_before"]) == 3 and len(one["unsafe_after"]) == 6  # whole groups of shots
    assert {q.id for q in one["unsafe_after"]} == {q.id for q in one["unsafe_before"]}


def test_unsafe_questions_about_harmless_images_stay_apart(data_dir, tmp_path):
    for image in (data_dir / "test").iterdir():
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / image.name).write_bytes(image.read_bytes())
    rows = json.loads((data_dir / "test.json").read_text())
    rows[-1]["instr-resp"].append({"unsafe_instruction": "can it hurt", "response": "no"})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    sets = build(tmp_path).sets
    assert [q.id for q in sets["safe_unsafes_before"]] == ["s4#unsafe"]
    assert len(sets["unsafe_before"]) == 5


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ("{}", "holds neither"),
        ('{"jailbreak": [{"w": 1}]}', "missing required field `word`"),
        ('{"jailbreak": "what"}', "jailbreak: expected `array"),
    ],
)
def test_bad_attack_words(tmp_path, content, what):
    (tmp_path / "attack.json").write_text(content)
    with pytest.raises(InputError, match=what):
        suite.read_attack_words(tmp_path / "attack.json")


def test_missing_folder_and_files(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        build(tmp_path / "none")
    with pytest.raises(InputError, match=r"test\.json"):
        build(tmp_path)
    with pytest.raises(InputError, match="no question"):
        build(tmp_path, with_images=False)
    with pytest.raises(InputError, match="attack_words"):
        suite.read_attack_words(tmp_path / "none.json")


def test_opening_words_as_list_or_object(tmp_path):
    assert suite.openings(tmp_path) == ()
    for content in (["what", "share", "what"], {"openings": ["what", "share"]}):
        (tmp_path / "openings.json").write_text(json.dumps(content))
        assert suite.openings(tmp_path) == ("what", "share")
    (tmp_path / "openings.json").write_text("[1]")
    with pytest.raises(InputError, match="list of words"):
        suite.openings(tmp_path)


def test_some_sets_can_be_asked_alone(data_dir):
    found = build(data_dir)
    assert list(suite.only(found, ["utility", "unsafe_before"]).sets) == ["utility", "unsafe_before"]
    with pytest.raises(InputError, match="nonsense not among the sets here.*unsafe_before"):
        suite.only(found, ["utility", "nonsense"])
