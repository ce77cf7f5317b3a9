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

ROOT = Path(__file__).resolve().parents[2]


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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vlm_mu_jax.cli.guard", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def done(*arguments: str, cwd: Path) -> str:
    result = guard(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_extract_select_apply_diagnose(world):
    out = done(
        "extract", "--checkpoint=model", "--anchors=anchors.json", "--out=raw", "--rank=2", "--layers=1-2", cwd=world
    )
    assert "amplify 2 at layers 1, 2" in out
    meta = json.loads((world / "raw" / "guard.json").read_text())
    assert meta["settings"]["layers"] == [1, 2] and meta["origin"]["rank"] == 2

    brief = ("--checkpoint=model", "--data=.", "--max_new_tokens=4", "--batch_size=6")
    grid = ("--strengths=1,8", "--operators=amplify", "--gates=midpoint", "--validation_share=1", "--max_questions=2")
    out = done("select", *brief, *grid, "--guard=raw", "--out=chosen", cwd=world)
    selection = json.loads((world / "chosen" / "guard.json").read_text())["selection"]
    assert [row["operator"] for row in selection["candidates"]] == ["off", "amplify", "amplify"]
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

    done("diagnose", "--checkpoint=model", "--data=.", "--guard=raw", "--out=diagnostics.json", cwd=world)
    found = json.loads((world / "diagnostics.json").read_text())
    assert set(found["auroc"]) == {"text", "blank", "own"} and {len(v) for v in found["auroc"].values()} == {4}
    assert len(found["pca"]["points"]) == 18 and found["pca"]["layer"] == 2


EXTRACT = ("extract", "--checkpoint=model", "--anchors=anchors.json")


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


@pytest.mark.slow
def test_a_guard_of_another_model_is_refused_unless_told_to(world):
    if not (world / "raw").exists():
        done("extract", "--checkpoint=model", "--anchors=anchors.json", "--out=raw", cwd=world)
    arguments = ("apply", "--checkpoint=other", "--data=.", "--guard=raw", "--out=other.jsonl", "--max_new_tokens=2")
    result = guard(*arguments, cwd=world)
    assert result.returncode == 2 and "--allow_other_model" in result.stderr and not (world / "other.jsonl").exists()
    done(*arguments, "--allow_other_model", cwd=world)
