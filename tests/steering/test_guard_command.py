"""bin/guard from extraction to diagnosis on a tiny random LLaVA in a model folder, and its refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_mu_jax.model_folder import write_model_folder
from vlm_mu_jax.steering.guard import extract

ROOT = Path(__file__).resolve().parents[2]


EXTRACT = ("extract", "--checkpoint=model", "--anchors=anchors.json")
SCORES = ("refusal_harmful", "refusal_blank", "refusal_own", "irrelevant_harmful", "over_refusal", "right_harmless")


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_model, anchors) -> Path:
    """A folder with two models of one shape and the data files of the guard."""
    home = tmp_path_factory.mktemp("world")
    for name, seed in (("model", 0), ("other", 1)):
        write_tiny(home / name, make_model(seed=seed), home)
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


def write_tiny(folder: Path, model, scratch: Path) -> None:
    """The tiny model as a model folder; its Hugging Face config says what `tiny_model` says."""
    text, vision = model.config.text, model.config.vision
    config = {
        "model_type": "llava", "image_token_id": 2, "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama", "vocab_size": text.V, "hidden_size": text.D, "num_hidden_layers": text.L,
            "num_attention_heads": text.N, "num_key_value_heads": text.K, "head_dim": text.H,
            "intermediate_size": text.F,
            "max_position_embeddings": text.max_positions, "rms_norm_eps": text.norm_eps, "bos_token_id": None,
            "eos_token_id": 1, "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "image_size": vision.image_size, "patch_size": vision.patch_size,
            "hidden_size": vision.D, "num_hidden_layers": vision.L, "num_attention_heads": vision.N,
            "intermediate_size": vision.F,
        },
    }  # fmt: skip
    files = scratch / "files"
    model.processor.tokenizer.save_pretrained(files)
    image = {
        "size": {"shortest_edge": 8},
        "crop_size": {"height": 8, "width": 8},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (files / "preprocessor_config.json").write_text(json.dumps(image))
    write_model_folder(folder, model.params, config, files, template="llava_hf", dialect="llava_v4", provenance={})


def guard(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return run("guard", *arguments, cwd=cwd)


def run(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """A command; what one has compiled the next one finds, as for a user."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLM_MU_CACHE": str(cwd / "xla")}
    command = [sys.executable, "-m", f"vlm_mu_jax.cli.{name}", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def done(*arguments: str, cwd: Path) -> str:
    result = guard(*arguments, cwd=cwd)
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
    grid = ("--strengths=1,8", "--operators=amplify", "--layer_sets=1-2", "--validation_share=1", "--max_questions=2")
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
        cwd=world,
    )
    found = json.loads((world / "diagnostics.json").read_text())
    assert set(found["auroc"]) == {"text", "blank", "own"} and {len(v) for v in found["auroc"].values()} == {4}
    assert len(found["pca"]["points"]) == 18 and found["pca"]["layer"] == 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("extract", "--checkpoint=model", "--out=x"), "--anchors"),
        ((*EXTRACT, "--out=."), "exists"),
        ((*EXTRACT, "--out=x", "--operator=reflect", "--strength=1"), "fixed strength"),
        (("apply", "--checkpoint=model", "--data=.", "--out=x"), "--guard"),
        (("melt", "--checkpoint=model", "--out=x"), "extract, select, apply, diagnose"),
        (("extract", "--checkpoint=model", "--anchors=text_harm.json", "--out=x"), "6 of 6 rows"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(world, arguments, said):
    result = guard(*arguments, cwd=world)
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (world / "x").exists()


def test_what_a_guard_does_not_fit_is_refused_in_one_line(world, model, anchors):
    """Another model, and a gate that this guard cannot have; tests/steering/test_guard.py has --allow_other_model."""
    text_gated = extract(model, anchors).using(decide="example", gate_source="text")
    text_gated.save(world / "made")
    other = ("--checkpoint=other", "--data=.", "--guard=made", "--out=other.jsonl")
    result = guard("apply", *other, cwd=world)
    assert result.returncode == 2 and "--allow_other_model" in result.stderr and not (world / "other.jsonl").exists()
    grid = ("--checkpoint=model", "--data=.", "--guard=made", "--out=x", "--validation_share=1")
    result = guard("select", *grid, "--gates=midpoint_blank", cwd=world)
    assert result.returncode == 2 and "reads the image" in result.stderr and not (world / "x").exists()
