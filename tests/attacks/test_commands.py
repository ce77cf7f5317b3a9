"""bin/audit and bin/attack as a user runs them: files in, files out, one line for what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.command import run_command
from vlm_mu_jax.data import readers
from vlm_mu_jax.storage.model_folder import write_model_folder

REFUSAL, ANSWER = "Sorry, i cannot help with this", "take it , then turn it"


def run(root, name, *flags):
    return run_command(name, *flags, cwd=root)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """VLGuard files: "share" opens unsafe questions, "what" safe ones."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 16), ("validation", 4), ("test", 6)):
        (folder / split).mkdir()
        rows = []
        for i in range(count):
            image, unsafe = f"{split}/{i}.png", i % 2 == 0
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(folder / image)
            word, key = ("share", "instruction") if unsafe else ("what", "safe_instruction")
            pairs = [{key: f"{word} the steps of the dax on this sign ?", "response": REFUSAL if unsafe else ANSWER}]
            if not unsafe:
                pairs.append({"unsafe_instruction": "share the wug on this sign ?", "response": REFUSAL})
            row = {"id": f"{split}{i}", "image": image, "safe": not unsafe, "instr-resp": pairs}
            rows.append(row | {"harmful_category": "none", "harmful_subcategory": "none"})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.processor.tokenizer.save_pretrained(folder / "files")
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 8}, "crop_size": 8}
    (folder / "files" / "preprocessor_config.json").write_text(json.dumps(settings))
    text, vision = model.config.text, model.config.vision
    config = {
        "model_type": "llava",
        "image_token_index": model.config.image_token_id,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.V,
            "hidden_size": text.D,
            "num_hidden_layers": text.L,
            "num_attention_heads": text.N,
            "num_key_value_heads": text.K,
            "head_dim": text.H,
            "intermediate_size": text.F,
            "max_position_embeddings": 256,
            "pad_token_id": 3,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.tower.patch_size,
            "hidden_size": vision.tower.D,
            "num_hidden_layers": vision.tower.L,
            "num_attention_heads": vision.tower.N,
            "intermediate_size": vision.tower.F,
        },
    }
    write_model_folder(folder / "m", model.params, config, folder / "files", "llava_hf", "llava_v4", {"source": "test"})
    return folder / "m"


def test_audit_writes_what_it_found(root, data, tmp_path):
    out, chart = tmp_path / "a" / "audit.json", tmp_path / "audit.svg"
    done = run(root, "audit", f"--data={data}", f"--out={out}", f"--chart={chart}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["over_refuse_candidates"][0]["word"] == "share" and found["probe"]["accuracy"] == 1
    assert found["jailbreak_candidates"][0]["word"] == "what" and "share" in done.stdout
    assert "<svg" in chart.read_text() and [p.name for p in out.parent.iterdir()] == ["audit.json"]


def test_audit_rebalances_and_follows_the_words_into_a_model(root, data, tmp_path):
    words = {"share": 9.0, "what": -3.0, "dax": 4.0, "steps": 3.5, "wug": 4.5, "sign": 4.0, "the": 3.0, "of": 4.0}
    part = {"original_margin": 4.0, "margins": words}
    attack = {"positions": ["question_start"], "by_position": {"question_start": {"search": {"jailbreak": part}}}}
    (tmp_path / "attack.json").write_text(json.dumps(attack))
    new, chart = tmp_path / "new" / "train.json", tmp_path / "attribution.png"
    flags = [f"--attack={tmp_path / 'attack.json'}", f"--attribution_chart={chart}", f"--rebalance={new}"]
    done = run(root, "audit", f"--data={data}", f"--out={tmp_path / 'audit.json'}", *flags)
    assert done.returncode == 0, done.stderr
    points = {p["word"]: p for p in json.loads((tmp_path / "audit.json").read_text())["attribution"]["points"]}
    assert points["share"]["change"] == 5.0 and points["what"]["change"] == -7.0 and chart.stat().st_size > 1000
    manifest = json.loads((new.parent / "train.manifest.json").read_text())
    before, after = (manifest[name]["probe"] for name in ("source", "rebalanced"))
    assert before["accuracy"] == 1 and after["p"] > 0.05
    again = readers.read(new)  # finds its images too
    assert again.sha256 == manifest["rebalanced"]["sha256"] and len(again) == len(readers.read(data / "train.json"))
    assert sorted(p.name for p in new.parent.iterdir()) == ["train", "train.json", "train.manifest.json"]


def test_audit_asks_a_model_which_words_decide(root, data, checkpoint, tmp_path):
    out, chart = tmp_path / "audit.json", tmp_path / "saliency.svg"
    flags = [f"--checkpoint={checkpoint}", "--saliency=2", f"--saliency_chart={chart}"]
    done = run(root, "audit", f"--data={data}", f"--out={out}", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    found = result["saliency"]
    assert found["model"] == checkpoint.name and result["data"]["miniature"] is False  # so the report hides the text
    assert found["n"] == 2 and found["removal"]["opening_first"]["n"] == 2 and "<svg" in chart.read_text()
    assert [w["word"] for w in found["questions"][0]["words"]][0] in ("share", "what")


def test_attack_writes_what_it_found(root, data, checkpoint, tmp_path):
    out = tmp_path / "attack.json"
    sizes = ("--search_questions=2", "--shots=2", "--shortlist=3", "--max_new_tokens=4", "--batch_size=8")
    done = run(root, "attack", f"--checkpoint={checkpoint}", f"--data={data}", f"--out={out}", *sizes)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["schema"] == 1 and len(found["jailbreak"]) == len(found["over_refuse"]) == 2
    assert found["search_split"] == "validation" and not found["with_reference"]
    assert found["openings"]["source"] == "data" and found["judge"] == "refusal"
    assert found["vocabulary_size"] > 20 and found["n_verify"] == {"jailbreak": 3, "over_refuse": 3}
    assert (tmp_path / "attack.answers.jsonl").exists() and "null" in done.stdout


def test_a_file_of_questions_is_attacked(root, checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("share the dax\nshare the wug\n")
    (tmp_path / "words.txt").write_text("what\ncan\n")
    flags = [f"--checkpoint={checkpoint}", f"--data={tmp_path / 'mine.txt'}", f"--words={tmp_path / 'words.txt'}"]
    flags += ["--goal=jailbreak", "--kind=unsafe", "--shots=1", "--shortlist=0", "--rescored=0", "--max_new_tokens=4"]
    out = tmp_path / "attack.json"
    done = run(root, "attack", *flags, f"--out={out}")
    assert done.returncode == 2 and "give some with --openings=FILE" in done.stderr
    (tmp_path / "no.txt").write_text("sorry\n")
    done = run(root, "attack", *flags, f"--out={out}", f"--openings={tmp_path / 'no.txt'}")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["search_split"] == "halves"


def test_other_methods_write_the_same_form(root, data, checkpoint, tmp_path):
    out = tmp_path / "gcg.json"
    sizes = ("--search_questions=1", "--verify_questions=1", "--goal=jailbreak", "--shots=1", "--max_new_tokens=4")
    small = ("--method=gcg", "--steps=2", "--candidates=8", "--top=4", "--suffix_tokens=3", "--batch_size=2")
    small += ("--stop=50", "--universal", "--targets=data")
    done = run(root, "attack", f"--checkpoint={checkpoint}", f"--data={data}", f"--out={out}", *sizes, *small)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["schema"] == 1 and found["method"] == "gcg_universal" and found["search"]["steps"] == 2
    assert found["any_of_k"]["asr"]["n"] == 1 and found["budget"]["jailbreak"]["gradients"] >= 1
    assert found["towards"] == "answers that begin with" and found["openings"] == ["take it ,"]
    assert (tmp_path / "gcg.answers.jsonl").exists() and "control" in done.stdout and "McNemar" in done.stdout


def test_a_model_judges_an_attack(root, data, checkpoint, tmp_path):
    out = tmp_path / "prefill.json"
    sizes = ("--search_questions=1", "--verify_questions=2", "--goal=jailbreak", "--shots=1", "--max_new_tokens=4")
    (tmp_path / "short.txt").write_text("{question} {answer} ?")
    flags = (*sizes, "--method=prefill", "--judge=harm", f"--judge_checkpoint={checkpoint}")
    command = ("attack", f"--checkpoint={checkpoint}", f"--data={data}", f"--out={out}", *flags)
    long = run(root, *command)  # the judge's own prompt is too long for so small a model
    assert long.returncode == 0 and "errors, 0 abstained; most errors: " in long.stdout, long.stderr
    assert json.loads(out.read_text())["unjudged"]["errors"] > 0
    command += (f"--judge_prompt={tmp_path / 'short.txt'}",)
    done = run(root, *command)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["judge"].startswith("harm:") and found["judge_cost"]["prompt_tokens"] > 0
    assert found["unjudged"]["errors"] == 0 and "judging took" in done.stdout
    assert (tmp_path / "prefill.json.judging" / "judged" / "harm.jsonl").read_text()
    assert sum(found["any_of_k"]["asr"]["labels"]["attack"].values()) == 2


@pytest.mark.parametrize(
    ("name", "flags", "wanted"),
    [
        ("attack", ["--checkpoint=.", "--data=.", "--out=x.json", "--method=paraphrase"], "--word=WORD"),
        (
            "attack",
            ["--checkpoint=.", "--data=.", "--out=x.json", "--method=prefill", "--prefills=/no/such"],
            "/no/such",
        ),
        ("attack", ["--checkpoint=.", "--data=.", "--out=x.json", "--method=pgd", "--universal"], "--method=gcg"),
        ("audit", ["--data=/no/such", "--out=x.json"], "/no/such"),
        ("attack", ["--checkpoint=/no/such", "--data=.", "--out=x.json"], "/no/such"),
        ("audit", ["--data=.", "--out=."], "folder"),
        ("audit", ["--data=x.json", "--out=y.json", "--saliency=3"], "--saliency needs --checkpoint"),
        ("audit", ["--data=x.json", "--out=y.json", "--rebalance=x.json"], "another name"),
    ],
)
def test_bad_input_is_one_line(root, name, flags, wanted):
    done = run(root, name, *flags)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and wanted in done.stderr
