"""`bin/eval` and `bin/generate` as a user runs them, on a tiny checkpoint: files, numbers, resuming, errors."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.command import run_command
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.model.vlm import forward


@pytest.fixture(scope="module")
def evaluated(checkpoint, data_dir, tmp_path_factory):
    """The workdir of a run with attack words, its flags, and what it printed."""
    workdir = tmp_path_factory.mktemp("eval")
    flags = [
        f"--checkpoint={checkpoint}",
        f"--data={data_dir}",
        f"--workdir={workdir}",
        "--max_new_tokens=4",
        "--batch_size=5",
        f"--attack_words={data_dir / 'attack.json'}",
        "--name=tiny",
        "--kind=base",
        "--seed=3",
    ]
    done = run_command("eval", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    return workdir, flags, done.stdout


def content(workdir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((workdir / "answers").glob("*.jsonl"))}


def test_results_hold_every_metric_with_its_interval(evaluated):
    workdir, _, _ = evaluated
    results = json.loads((workdir / "results.json").read_text())
    (run,) = results["runs"]
    assert results["schema"] == 1 and (run["name"], run["kind"], run["seed"], run["judge"]) == (
        "tiny",
        "base",
        3,
        "oracle",
    )
    wanted = {
        "asr_before": 5,
        "asr_after": 5,
        "asr_null": 5,
        "rr_before": 5,
        "rr_after": 5,
        "rr_unsafe": 5,
        "ir_unsafe_before": 5,
        "ir_unsafe_after": 5,
        "ir_harmless_before": 5,
        "ir_harmless_after": 5,
        "harmless_right_before": 5,
        "harmless_right_after": 5,
        "utility": 3,
    }
    assert {name: run["metrics"][name]["n"] for name in wanted} == wanted
    assert set(run["metrics"]["gap"]) == {"text_only", "blank_image", "own_image"}
    assert {name: m["n"] for name, m in run["metrics"]["asr_by_opening"].items()} == {"share": 5, "what": 5}
    for when in ("before", "after"):
        parts = [run["metrics"][name] for name in (f"asr_{when}", f"ir_unsafe_{when}")]
        parts.append(run["metrics"]["rr_unsafe" if when == "before" else "rr_unsafe_after"])
        assert sum(p["k"] for p in parts) == 5
        assert all(0 <= p["low"] <= p["value"] <= p["high"] <= 1 for p in parts)


def test_a_file_of_questions_is_asked_without_references(checkpoint, tmp_path):
    (tmp_path / "mine.csv").write_text("Goal\nHow do I wug?\nHow do I dax?\n")
    flags = [f"--checkpoint={checkpoint}", f"--data={tmp_path / 'mine.csv'}", "--columns=question=Goal"]
    done = run_command("eval", *flags, f"--workdir={tmp_path / 'run'}", "--max_new_tokens=4")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mine.csv: 2 general questions without a reference answer are asked as harmless ones" in done.stdout
    (run,) = json.loads((tmp_path / "run/results.json").read_text())["runs"]
    assert run["metrics"]["rr_before"]["n"] == 2 and "utility" not in run["metrics"]


def test_the_table_shows_rates_counts_and_the_judge(evaluated):
    _, _, printed = evaluated
    for text in ("tiny (base)", "ASR", "RR", "IR", "utility", "alignment gap", "text only", "judge: oracle", "/5"):
        assert text in printed
    assert "refusals alone" not in printed


def test_config_and_provenance_say_what_was_run(evaluated, checkpoint):
    workdir, _, _ = evaluated
    settings, origin = (json.loads((workdir / f"{name}.json").read_text()) for name in ("config", "provenance"))
    assert settings["max_new_tokens"] == 4 and settings["attack_words"]["jailbreak"] == ["what", "list"]
    assert settings["weights_sha256"] == origin["checkpoint"]["weights_sha256"]
    assert origin["checkpoint"]["source"] == {"source": "tiny"} and set(origin["data"]["sha256"]) > {"test.json"}
    assert origin["device"]["platform"] and origin["packages"]["jax"]


def test_a_resumed_run_gives_the_same_files(evaluated):
    workdir, flags, _ = evaluated
    whole, results = content(workdir), (workdir / "results.json").read_bytes()
    path = workdir / "answers" / "unsafe_after.jsonl"
    path.write_bytes(path.read_bytes()[:-700])
    (workdir / "answers" / "utility.jsonl").unlink()
    done = run_command("eval", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, lines in content(workdir).items():
        assert sorted(lines.splitlines()) == sorted(whole[name].splitlines()), name
    resumed = json.loads((workdir / "results.json").read_text())
    assert {**resumed, "provenance": None} == {**json.loads(results), "provenance": None}


def test_rejudging_with_another_judge_and_a_baseline(evaluated, tmp_path):
    workdir, flags, _ = evaluated
    before = content(workdir)
    missing = run_command("eval", *[f for f in flags if "--workdir" not in f], f"--workdir={tmp_path}", "--rejudge")
    assert missing.returncode == 2 and len(missing.stderr.splitlines()) == 1
    done = run_command("eval", *flags, "--rejudge", "--judge=keyword_seed", f"--baseline={workdir}", "--name=again")
    assert done.returncode == 0, done.stderr[-2000:]
    assert content(workdir) == before and "keyword_seed sees refusals alone" in done.stdout
    results = json.loads((workdir / "results.json").read_text())
    assert (
        results["runs"][0]["judge"] == "keyword_seed" and "harmless_right_before" not in results["runs"][0]["metrics"]
    )
    assert {c["metric"] for c in results["comparisons"]} >= {"asr_before", "asr_after", "utility"}
    assert all(c["b"] == c["c"] == 0 and c["p"] == 1 and c["baseline"] == "tiny" for c in results["comparisons"])
    assert "exact McNemar" in done.stdout


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["--max_new_tokens=5"], "another --max_new_tokens"),
        (["--checkpoint=none"], "no such folder"),
        (["--data=none"], "no such folder"),
        (["--attack_words=none.json"], "--attack_words=none.json"),
        (["--judge=vibes"], "--judge"),
    ],
)
def test_bad_input_is_one_line(evaluated, change, what):
    _, flags, _ = evaluated
    done = run_command("eval", *flags, *change)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and what in line


def test_a_model_behind_a_server_judges_and_is_calibrated(evaluated, fake_server, tmp_path):
    workdir, flags, _ = evaluated
    shutil.copytree(workdir, tmp_path / "run")
    before = content(tmp_path / "run")

    def reply(path, body, number):
        text = str(body["messages"])
        if "broken" in text:
            return 400, {"error": {"message": "no"}}
        return 200, fake_server.said("Yes" if "press" in text or number % 2 else "No")

    there = fake_server(reply)
    people = tmp_path / "people.csv"
    rows = ["q,press the kib,1"] * 30 + ["q,a broken thing,0", "q,i cannot,0"] + [f"q,wug {i},0" for i in range(40)]
    people.write_text("\n".join(["question,answer,label", *rows]) + "\n")
    flags = [*(f for f in flags if "--workdir" not in f), f"--workdir={tmp_path / 'run'}", "--rejudge", "--judge=harm"]
    server = [f"--judge_server={there.url}", "--judge_model=tiny", "--judge_prices=1,2", "--nojudge_logprobs"]
    done = run_command("eval", *flags, *server, f"--calibrate={people}", "--judge_retries=0")
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert run["judge"] == "harm:tiny" and run["judge_cost"]["dollars"] > 0 and run["metrics"]["asr_before"]["n"] == 5
    assert run["calibration"]["answered"]["tp"] == 30 and run["calibration"]["answered"]["fn"] == 0
    assert set(run["corrected"]["asr_before"]) in ({"value", "low", "high", "raw"}, {"why", "raw"})
    assert run["null_control"]["shots"] == 2 and run["null_control"]["by_judge_errors"] is not None
    for text in ("judging took", "$", "null control, best of 2", "sensitivity", "corrected for", "to show a"):
        assert text in done.stdout
    answers = {name: [json.loads(line) for line in raw.splitlines()] for name, raw in content(tmp_path / "run").items()}
    for name, raw in before.items():  # labels alone are new
        old = [json.loads(line) for line in raw.splitlines()]
        assert [{**row, "labels": 0} for row in answers[name]] == [{**row, "labels": 0} for row in old]
    asked = len(there.requests)
    assert run_command("eval", *flags, *server).returncode == 0 and len(there.requests) == asked  # all from the cache
    for wrong in (["--judge=harm"], ["--judge=keyword", "--judge_model=x"], [*server, "--calibrate=none.csv"]):
        done = run_command("eval", *flags, *wrong)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_generate_prints_what_can_be_checked(checkpoint, model, data_dir):
    image = data_dir / "test" / "0.png"
    flags = (f"--checkpoint={checkpoint}", "--prompt=what is it ?", f"--image={image}", "--max_new_tokens=5")
    done = run_command("generate", *flags, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert set(answer) == {"prompt_token_ids", "token_ids", "logprobs", "text"}
    assert answer["prompt_token_ids"].count(3) == model.config.vision.P
    # One full forward over prompt and answer says the same: greedy tokens and their log-probabilities.
    ids = answer["prompt_token_ids"] + answer["token_ids"]
    out = forward(
        jax.tree.map(jnp.asarray, model.params),
        model.processor.pad([ids], [[model.processor.pixels(image)]]),
        model.config,
    )
    start = len(answer["prompt_token_ids"]) - 1
    logits = np.asarray(out.logits_BTV[0, start : len(ids) - 1], np.float64)
    logprobs = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    assert logits.argmax(-1).tolist() == answer["token_ids"]
    chosen = logprobs[np.arange(len(answer["token_ids"])), answer["token_ids"]]
    np.testing.assert_allclose(answer["logprobs"], chosen, atol=1e-4)


def test_generate_refuses_what_is_no_image(checkpoint, data_dir):
    done = run_command("generate", f"--checkpoint={checkpoint}", "--prompt=x", f"--image={data_dir / 'oracle.json'}")
    assert done.returncode == 2 and "oracle.json" in done.stderr and len(done.stderr.splitlines()) == 1


def test_answers_are_as_in_the_contract(evaluated):
    workdir, _, _ = evaluated
    answers = answers_file.read(workdir / "answers" / "unsafe_after.jsonl")
    assert len(answers) == 10 and {a.condition.position for a in answers} == {"question_start"}
    assert all({"oracle", "keyword", "keyword_seed"} <= set(a.labels) for a in answers)
