"""`bin/defences` as a user runs it, on a tiny checkpoint, and the names it refuses."""

import dataclasses
import json

import pytest

from tests.command import run_command
from vlm_mu_jax.cli import defences
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import judges
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import instruction_settings, runs, table
from vlm_mu_jax.evaluation.defences.comparison import DefendedModels
from vlm_mu_jax.evaluation.defences.wrappers import Wording
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.steering import guard_folder


@pytest.mark.slow
def test_one_command_makes_the_table(checkpoint, data_dir, tmp_path):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"self_reminder": "so . {question}"}))
    workdir = tmp_path / "runs"
    flags = [
        f"--checkpoint={checkpoint}",
        f"--data={data_dir}",
        f"--workdir={workdir}",
        f"--unlearned={checkpoint}",
        "--defences=vanilla,self_reminder,unlearned",
        f"--defence_prompts={prompts}",
        "--settings=direct,one_word",
        "--images=text_only,blank_image",
        "--max_new_tokens=4",
        "--batch_size=4",
        "--shots=1",
        f"--attack_words={data_dir / 'attack.json'}",
    ]
    done = run_command("defences", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((workdir / "defences.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["vanilla", "self_reminder", "unlearned"]
    assert [row["kind"] for row in found["rows"]] == ["base", "guard", "unlearned"]
    vanilla, reminded, same = (row["metrics"] for row in found["rows"])
    assert set(vanilla["settings"]) == {"direct", "one_word"} and vanilla["utility"]["n"] == 3
    assert vanilla["settings"] == same["settings"], "the same weights under another name"
    assert reminded["settings"]["direct"]["blank_image"]["perplexity"]["n"] == 4
    tests = [row for row in found["comparisons"] if row["run"] == "unlearned"]
    assert tests and all(row["p"] == 1.0 and row["b"] == row["c"] == 0 for row in tests)
    assert (workdir / "defences.md").read_text() in done.stdout
    (run,) = json.loads((workdir / "vanilla" / "results.json").read_text())["runs"]
    assert run["metrics"]["gap"]["blank_image"]["asr"]["n"] == 2

    files = sorted(workdir.glob("*/answers/**/*.jsonl"))
    before = [path.read_bytes() for path in files]
    assert run_command("defences", *flags).returncode == 0
    assert [path.read_bytes() for path in files] == before, "a finished run was asked again"

    prompts.write_text(json.dumps({"self_reminder": "other . {question}"}))
    done = run_command("defences", *flags)
    assert done.returncode == 2 and "wording of the defence" in done.stderr


def test_a_run_is_written_as_bin_eval_writes_it_and_tested_against_the_first(model, quick, data_dir, tmp_path):
    suite = instruction_settings.build(data_dir, settings=["direct"])
    available = judges.available(data_dir)
    judge = available["oracle"]
    plan = runs.DefencePlan(
        tmp_path, data_dir, available, judge, Wording(self_reminder="so . {question}"), AnswerOptions(4, 4), 7
    )
    vanilla, reminded = runs.parse(["vanilla", "self_reminder"])
    first, first_sets = runs.run(model, vanilla, None, suite, plan)
    second, second_sets = runs.run(model, reminded, None, suite, plan)
    tests = table.compare("self_reminder", second_sets, "vanilla", first_sets, judge.name)
    assert {row["metric"] for row in tests} >= {"direct_blank_image/asr", "direct_own_image/rr_harmless", "utility"}
    runs.write(plan, second, tests)
    written = json.loads((tmp_path / "self_reminder" / "results.json").read_text())
    (run,) = written["runs"]
    assert (run["name"], run["kind"], run["seed"], run["judge"]) == ("self_reminder", "guard", 7, "oracle")
    assert run["defence"]["name"] == "self_reminder" and run["metrics"]["gap"]["text_only"]["asr"]["n"] == 2
    assert "perplexity" not in run["metrics"]["gap"]["text_only"], "nothing scored the answers"
    assert written["comparisons"] == tests and written["provenance"]["data"]["sha256"].keys() == suite.files.keys()
    settings = json.loads((tmp_path / "self_reminder" / "config.json").read_text())
    assert settings["defence_prompts"]["self_reminder"] == "so . {question}"
    calls = len(quick)
    assert runs.run(model, reminded, None, suite, plan)[0] == second and len(quick) == calls
    assert [line.split(" | ")[0] for line in table.markdown([first, second]).splitlines()[2:]] == [
        "| vanilla",
        "| self_reminder",
    ]


def test_parts_of_a_defence():
    found = runs.parse(["vanilla", "ecso+guard", "unlearned", "unlearned+guard"])
    assert [(d.wrapper, d.guard, d.unlearned) for d in found] == [
        ("vanilla", None, False),
        ("ecso", "guard", False),
        ("vanilla", None, True),
        ("vanilla", "guard", True),
    ]
    assert [d.kind for d in found] == ["base", "guard", "unlearned", "unlearned"]


def test_further_guards_are_parts_by_their_names():
    (found,) = runs.parse(["coca+alpha"], ["alpha"])
    models = DefendedModels("base", "runs/guard", guards={"alpha": "runs/a"})
    assert (found.wrapper, models.guard_of(found)) == ("coca", "runs/a") and found.kind == "guard"
    with pytest.raises(InputError, match="another part's name"):
        runs.parse(["coca"], ["coca"])
    with pytest.raises(InputError, match="one guard"):
        runs.parse(["guard+alpha"], ["alpha"])
    with pytest.raises(InputError, match="belongs to --checkpoint"):
        DefendedModels("b", unlearned="n", guards={"alpha": "a"}).guard_of(
            runs.parse(["unlearned+alpha"], ["alpha"])[0]
        )


@pytest.mark.parametrize("names", [["hope"], ["ecso+self_reminder"], ["guard+guard"], ["guard", "guard"]])
def test_defences_that_mean_nothing_are_input_errors(names):
    with pytest.raises(InputError, match="--defences"):
        runs.parse(names)


def test_words_for_all_and_for_one(tmp_path):
    file = tmp_path / "attack.json"
    found = defences._words_of([f"guard={file}", str(file.with_name("all.json"))], ["vanilla", "guard"])
    assert found == {"vanilla": tmp_path / "all.json", "guard": file}
    with pytest.raises(InputError, match="no defence 'gard'"):
        defences._words_of([f"gard={file}"], ["guard"])


def test_requests_that_selection_has_seen_are_left_out(monkeypatch):
    monkeypatch.setattr(guard_folder, "read", lambda folder: ({}, {"selection": {"validation_ids": ["a", "x"]}}))
    questions = [Question("a", "q", None), Question("b", "q", None)]
    suite = Suite({"direct_text_only": questions, "only_seen": questions[:1]}, {}, {})
    found, left_out = runs.unseen(suite, [None, "guard"])
    assert left_out == 1 and found.sets == {"direct_text_only": questions[1:]}
    assert runs.unseen(suite, [None]) == (suite, 0)
    with pytest.raises(InputError, match="has seen every request"):
        runs.unseen(dataclasses.replace(suite, sets={"only_seen": questions[:1]}), ["guard"])


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--defences=guard",), "needs --guard"),
        (("--defences=unlearned",), "needs --unlearned"),
        (("--defences=unlearned+guard", "--unlearned=x", "--guard=x"), "needs --unlearned_guard"),
    ],
)
def test_what_a_part_needs_is_said_before_anything_is_loaded(data_dir, tmp_path, flags, said):
    (tmp_path / "vlm_mu_jax.json").write_text("{}")  # a folder that is taken for a model until it is loaded
    done = run_command("defences", f"--checkpoint={tmp_path}", f"--data={data_dir}", "--workdir=x", *flags)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
