"""bin/guard from extraction to diagnosis on a tiny random LLaVA in a model folder, and its refusals."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import run_command
from tests.steering.tiny_folder import write_tiny
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard

ROOT = Path(__file__).resolve().parents[2]


EXTRACT = ("extract", "--checkpoint=model", "--anchors=anchors.json")
SCORES = ("refusal_harmful", "refusal_blank", "refusal_own", "irrelevant_harmful", "over_refusal", "right_harmless")


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_model, anchors) -> Path:
    """A folder with two models of one shape and the data files of the guard."""
    home = tmp_path_factory.mktemp("world")
    for name, model in (("model", {}), ("other", {"seed": 1}), ("bfloat16", {"dtype": "bfloat16"})):
        write_tiny(home / name, make_model(**model), home)
    rows = [{"harmful": a, "harmless": b} for a, b in zip(anchors.harmful, anchors.harmless, strict=True)]
    (home / "anchors.json").write_text(json.dumps(rows))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(home / "sign.png")
    requests = [
        {
            "id": f"q{k}",
            "question": f"how to {verb} a pok{'abcdef'[k]}?",
            "answer": "ok",
            "kind": kind,
            "image": "sign.png",
        }
        for k, (verb, kind) in enumerate([("hurt", "unsafe"), ("feed", "safe")] * 3)
    ]
    (home / "text_harm.json").write_text(json.dumps(requests))
    record = {"id": "t", "image": "sign.png", "safe": True, "harmful_category": "none"}
    pair = {"safe_instruction": "what is it?", "response": "ok"}
    (home / "test.json").write_text(json.dumps([record | {"instr-resp": [pair]}]))
    (home / "oracle.json").write_text(json.dumps({row["id"]: {"steps": ["ok"], "refusal": ["no"]} for row in requests}))
    return home


def guard(*arguments: str, cwd: Path, **more) -> subprocess.CompletedProcess:
    return run("guard", *arguments, cwd=cwd, **more)


def run(name: str, *arguments: str, cwd: Path, devices: int = 1) -> subprocess.CompletedProcess:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return run_command(name, *arguments, cwd=cwd, env={"XLA_FLAGS": flags})


def done(*arguments: str, cwd: Path, **more) -> str:
    result = guard(*arguments, cwd=cwd, **more)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_extract_select_apply_diagnose(world):
    flags = ("--rank=2", "--layers=1-2", "--decide=example", "--gate_source=text", "--scope=last", "--batch_size=2")
    out = done(*EXTRACT, "--out=raw", *flags, cwd=world)
    assert "amplify 2 at layers 1, 2, scope last, gate midpoint, decided per example from the text alone" in out
    meta = json.loads((world / "raw" / "guard.json").read_text())
    assert meta["settings"]["layers"] == [1, 2] and meta["origin"]["rank"] == 2
    assert meta["settings"]["gate_source"] == "text" and meta["settings"]["scope"] == "last"

    brief = ("--checkpoint=model", "--data=.", "--max_new_tokens=4", "--batch_size=2")  # one shape: compiled once
    grid = (
        "--strengths=1,8",
        "--operators=amplify",
        "--scopes=last",
        "--layer_sets=1-2",
        "--validation_share=1",
        "--max_questions=2",
    )
    out = done("select", *brief, *grid, "--guard=raw", "--out=chosen", cwd=world)
    selection = json.loads((world / "chosen" / "guard.json").read_text())["selection"]
    assert [row["operator"] for row in selection["candidates"]] == ["off", "amplify", "amplify"]
    assert {row["scope"] for row in selection["candidates"][1:]} == {"last"}
    assert all(0 <= row[name] <= 1 for row in selection["candidates"] for name in SCORES)
    assert selection["judge"] == "oracle" and len(selection["validation_ids"]) == 4
    assert "written to chosen" in out

    out = done(
        "apply",
        *brief,
        "--guard=chosen",
        "--out=answers.jsonl",
        "--image=none",
        "--image=blank",
        "--image=own",
        cwd=world,
    )
    lines = [json.loads(line) for line in (world / "answers.jsonl").read_text().splitlines()]
    assert [line["condition"]["image"] for line in lines] == ["none"] * 6 + ["blank:white"] * 6 + ["own"] * 6
    assert {line["id"] for line in lines} == {f"q{k}" for k in range(6)}
    assert all(line["labels"]["oracle"]["label"] in ("answered", "refused", "irrelevant") for line in lines)
    assert "n=1" in out, "the summary counts only the requests that selection did not see"

    flags = ("--guard=raw", "--workdir=eval", "--sets=gap_blank_image")  # the guard needs a first pass here as well
    result = run("eval", *brief, *flags, cwd=world)
    assert result.returncode == 0, result.stderr[-2000:]

    done(
        "diagnose",
        "--checkpoint=model",
        "--data=.",
        "--guard=raw",
        "--out=diagnostics.json",
        "--batch_size=2",
        "--answers",
        "--max_new_tokens=4",
        "--llm=other",
        cwd=world,
    )
    found = json.loads((world / "diagnostics.json").read_text())
    assert set(found["auroc"]) == {"text", "blank", "own"} and {len(v) for v in found["auroc"].values()} == {4}
    assert len(found["pca"]["points"]) == 18 and found["pca"]["layer"] == 2
    assert set(found["stress"]) == {"white", "black", "mean", "noise"}
    assert set(found["cosine"]) == {"blank", "own", "llm", "two_halves"}
    assert set(found["answers"]["conditions"]) == {"text", "white", "black", "mean", "noise", "own"}
    blank = found["answers"]["conditions"]["white"]
    assert blank["harmful"]["refused"]["n"] == 3 and blank["tokens"]["n"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["model", "bfloat16"])
def test_one_and_eight_devices_give_the_same_guard_and_answers(world, checkpoint):
    made = {}
    for devices in (1, 8):
        out = f"{checkpoint}_{devices}"
        use = ("--operator=transplant", "--decide=example", "--gate_source=text", "--gate_layers=last", "--scope=all")
        extract = ("extract", f"--checkpoint={checkpoint}", "--anchors=anchors.json", f"--out={out}", "--layers=1")
        done(*extract, *use, cwd=world, devices=devices)
        apply = ("apply", f"--checkpoint={checkpoint}", f"--guard={out}", "--data=.", f"--out={out}.jsonl")
        done(*apply, "--image=own", "--max_new_tokens=4", "--batch_size=2", cwd=world, devices=devices)
        made[devices] = [json.loads(line)["answer"] for line in (world / f"{out}.jsonl").read_text().splitlines()]
    assert made[1] == made[8] and len(made[1]) == 6


@pytest.mark.slow
def test_bake_writes_a_checkpoint_or_says_why_not(world):
    done(*EXTRACT, "--out=fixed", "--method=activation_addition", "--layers=1", cwd=world)
    out = done("bake", "--checkpoint=model", "--guard=fixed", "--out=fixed_hf", cwd=world)
    assert json.loads((world / "fixed_hf" / "config.json").read_text())["text_config"]["mlp_bias"] is True
    done(*EXTRACT, "--out=gated", cwd=world)
    bake = ("bake", "--checkpoint=model", "--guard=gated", "--out=gated_hf")
    result = guard(*bake, cwd=world)
    assert result.returncode == 2 and "depends on the input" in result.stderr and not (world / "gated_hf").exists()
    out = done(*bake, "--module", cwd=world)
    assert "trust_remote_code" in out and (world / "gated_hf" / "guarded_model.py").exists()
    export = ("export", "--checkpoint=model", "--guard=gated")
    assert "attach(model)" in done(*export, "--out=guard_hooks.py", cwd=world)
    result = guard(*export, "--as=control_vector", "--out=gated.gguf", cwd=world)
    assert result.returncode == 2 and "depends on the state; nearest: --operator=add" in result.stderr
    out = done("export", "--checkpoint=model", "--guard=fixed", "--as=control_vector", "--out=fixed.gguf", cwd=world)
    assert "--control-vector fixed.gguf" in out and (world / "fixed.gguf").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("extract", "--checkpoint=model", "--out=x"), "--anchors"),
        ((*EXTRACT, "--out=."), "never replaced"),
        ((*EXTRACT, "--out=x", "--operator=reflect", "--strength=1"), "fixed strength"),
        (("apply", "--checkpoint=model", "--data=.", "--out=x"), "--guard"),
        (("select", "--checkpoint=model", "--data=.", "--out=x", "--judge=harm"), "--judge_checkpoint"),
        (("melt", "--checkpoint=model", "--out=x"), "extract, select, apply, diagnose, bake, export"),
        (("extract", "--checkpoint=model", "--anchors=test.json", "--out=x"), "holds 0 harmful and 1 harmless"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(world, arguments, said):
    result = guard(*arguments, cwd=world)
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (world / "x").exists()


def test_what_a_guard_does_not_fit_is_refused_in_one_line(world, model, anchors):
    """Another model, and a gate that this guard cannot have; tests/steering/test_guard.py has --allow_other_model."""
    text_gated = extract_guard(model, anchors, ExtractOptions(blank=None)).using(decide="example", gate_source="text")
    text_gated.save(world / "made")
    other = ("--checkpoint=other", "--data=.", "--guard=made", "--out=other.jsonl")
    result = guard("apply", *other, cwd=world)
    assert result.returncode == 2 and "--allow_other_model" in result.stderr and not (world / "other.jsonl").exists()
    grid = ("--checkpoint=model", "--data=.", "--guard=made", "--out=x", "--validation_share=1")
    result = guard("select", *grid, "--gates=midpoint_blank", cwd=world)
    assert result.returncode == 2 and "reads the image" in result.stderr and not (world / "x").exists()
