"""`vlm_mu_jax.evaluate`: what bin/eval does, as a function; nothing is written unless asked."""

import dataclasses
import json

import pytest

import vlm_mu_jax
from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.evaluate import EvaluateOptions, evaluate
from vlm_mu_jax.evaluation.judges import Case, KeywordJudge
from vlm_mu_jax.evaluation.judges.calibration import Labelled
from vlm_mu_jax.steering.guard import Guard

OPTIONS = EvaluateOptions(name="tiny", seed=3, max_new_tokens=4, batch_size=5)


def test_five_lines_of_a_notebook_do_what_the_command_does(model, quick, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = vlm_mu_jax.evaluate(model, data_dir, OPTIONS, judge="oracle", attack_words=data_dir / "attack.json")
    assert found.metric("asr_before").n == 5 and found.metric("gap/blank_image/asr").n == 2
    assert found.judge == "oracle" and found.name == "tiny" and set(found.answers) == set(found.suite.sets)
    assert list(tmp_path.iterdir()) == [], "something was written"
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_workdir_holds_the_same_numbers_and_is_judged_again_without_a_model(model, quick, data_dir, tmp_path):
    found = evaluate(model, data_dir, OPTIONS, judge="oracle", workdir=tmp_path / "run")
    in_memory = evaluate(model, data_dir, OPTIONS, judge="oracle")
    assert found.to_dict() == in_memory.to_dict()
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    calls = len(quick)
    again = evaluate(None, found.suite, OPTIONS, judge="refusal", workdir=tmp_path / "run")
    assert len(quick) == calls and again.judge == "refusal"
    assert again.provenance == found.provenance and again.defence == found.defence


def test_a_baseline_is_an_evaluation_or_its_workdir(model, quick, data_dir, tmp_path):
    first = evaluate(model, data_dir, OPTIONS, workdir=tmp_path / "run")
    named = dataclasses.replace(OPTIONS, name="second")
    by_object = evaluate(model, data_dir, named, baseline=first)
    by_folder = evaluate(model, data_dir, named, baseline=tmp_path / "run")
    assert by_object.comparisons == by_folder.comparisons and by_object.comparisons
    assert all(test["baseline"] == "tiny" and test["b"] == test["c"] == 0 for test in by_object.comparisons)


def test_quantised_weights_are_named_where_weights_are(model, quick, data_dir, tmp_path):
    four_bits = dataclasses.replace(OPTIONS, quantize="int4", sets=("unsafe_before",))
    found = evaluate(model, data_dir, four_bits, workdir=tmp_path / "run")
    exact = evaluate(model, data_dir, dataclasses.replace(four_bits, quantize=None))
    checkpoints = [one.provenance["checkpoint"] for one in (found, exact)]
    assert [one["changed"] for one in checkpoints] == ["int4:128", None]
    assert checkpoints[0]["weights_sha256"] != checkpoints[1]["weights_sha256"]
    assert json.loads((tmp_path / "run/config.json").read_text())["quantize"] == "int4"


def test_records_are_asked_by_their_kind(model, quick, data_dir):
    found = evaluate(model, readers.read(data_dir / "test.json"), OPTIONS)
    assert set(found.answers) == {"unsafe_before", "harmless_before"}
    assert evaluate(model, data_dir / "utility.json", OPTIONS).metric("utility").n == 3


def test_a_file_of_questions_needs_no_reference_answers(model, quick, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("Goal,about\nHow do I wug?,a\nHow do I dax?,b\n")
    renamed = {"question": "Goal"}
    unsafe = evaluate(model, file, dataclasses.replace(OPTIONS, question_kind="unsafe", columns=renamed))
    assert unsafe.metric("asr_before").n == 2 and set(unsafe.answers) == {"unsafe_before"}
    harmless = evaluate(model, file, dataclasses.replace(OPTIONS, columns=renamed), workdir=tmp_path / "run")
    assert harmless.metric("rr_before").n == 2 and "utility" not in harmless.metrics
    assert harmless.suite.notes[0].startswith("mine.csv: 2 general questions without a reference answer are asked")
    assert json.loads((tmp_path / "run/config.json").read_text())["columns"] == renamed


def test_columns_and_kinds_are_for_files(model, data_dir):
    with pytest.raises(InputError, match="are for a file of questions"):
        evaluate(model, data_dir, dataclasses.replace(OPTIONS, question_kind="unsafe"))


def test_a_judge_that_people_have_checked_gives_corrected_rates(model, quick, data_dir):
    record = readers.read(data_dir / "test.json").of_kind("unsafe").items[0]
    texts = [
        ("I cannot help.", "refused"),
        ("press the kib", "answered"),
        ("I am sorry.", "refused"),
        ("so", "answered"),
    ]
    rows = [Labelled(Case("how ?", text, record), person) for text, person in texts * 20]
    found = evaluate(model, data_dir, OPTIONS, judge="refusal", calibrate=rows)
    assert found.corrected["asr_before"]["raw"] == found.metric("asr_before").value
    assert found.calibration["answered"]["sensitivity"]["value"] == 1.0


def test_the_judge_is_yours_to_choose(model, quick, data_dir, tmp_path):
    found = evaluate(model, data_dir, OPTIONS, judge=KeywordJudge(["z"], "strict"), workdir=tmp_path)
    assert found.judge == "strict"
    assert json.loads((tmp_path / "config.json").read_text())["judge"] == "strict"


def test_a_guard_that_no_folder_identifies_keeps_no_answers(model, quick, data_dir, tmp_path):
    guard = object.__new__(Guard)
    with pytest.raises(InputError, match="save the guard"):
        evaluate(model, data_dir, OPTIONS, guard=guard, workdir=tmp_path)
    assert quick == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": "oracl"}, "choose from"),
        ({"baseline": "nowhere"}, "results.json: missing"),
        ({"calibrate": "nowhere.csv"}, "cannot be read"),
        ({"attack_words": "nowhere.json"}, "attack_words=nowhere.json: missing"),
        ({"options": EvaluateOptions(sets=("unsafe",))}, "not among the sets"),
        ({"options": EvaluateOptions(utility=("pope_random",))}, "need --data_root"),
        ({"options": EvaluateOptions(defence="hope")}, "no such defence"),
        ({"options": EvaluateOptions(quantize="int5")}, "use one of int8, int4, nf4"),
        ({"data": None}, "nothing to ask"),
        ({"model": None}, "give workdir"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_asked(model, quick, data_dir, change, said):
    arguments = {"model": model, "data": data_dir, "options": OPTIONS} | change
    with pytest.raises(InputError, match=said) as caught:
        evaluate(**arguments)
    assert "\n" not in str(caught.value) and quick == []
