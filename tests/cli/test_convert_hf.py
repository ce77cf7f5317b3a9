"""`bin/convert_hf` as a user runs it."""

import json
import subprocess

import pytest
from safetensors.numpy import load_file

from tests.command import run_command
from tests.conversion.hf_checkpoints import make_llava, save
from tests.conversion.original_checkpoints import make_original, save_clip, save_original
from vlm_mu_jax.cli.convert_hf import __doc__ as doc


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save(make_llava(0), tmp_path_factory.mktemp("hf"))
    (folder / "chat_template.jinja").write_text("{{ 'USER: ' }}")
    return folder


def convert_hf(root, *flags):
    return run_command("convert_hf", *flags, cwd=root)


def test_there_and_back(root, checkpoint, tmp_path):
    done = convert_hf(root, f"--source={checkpoint}", f"--out={tmp_path / 'ours'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "ours" / "vlm_mu_jax.json").read_text())["template"] == "own"
    assert "no tokenizer files" in done.stdout
    done = convert_hf(root, "--export", f"--source={tmp_path / 'ours'}", f"--out={tmp_path / 'hf'}")
    assert done.returncode == 0, done.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "hf"))
    assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}


def test_a_truncated_file_is_one_line_and_leaves_nothing(root, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-1])
    done = convert_hf(root, f"--source={broken}", f"--out={tmp_path / 'ours'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "model.safetensors" in done.stderr
    assert not (tmp_path / "ours").exists()


def test_flags_that_do_nothing_are_refused(root, checkpoint, tmp_path):
    done = convert_hf(root, "--export", "--dtype=float32", f"--source={checkpoint}", f"--out={tmp_path / 'x'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = convert_hf(root, "--template=nonsense", f"--source={checkpoint}", f"--out={tmp_path / 'x'}")
    assert done.returncode == 2 and "--template=nonsense" in done.stderr


def test_an_original_llava_with_its_tower_in_another_folder(root, tmp_path):
    theirs = make_original(0)
    source, clip = save_original(theirs, tmp_path / "llava", tower_inside=False), save_clip(theirs, tmp_path / "clip")
    done = convert_hf(root, f"--source={source}", f"--out={tmp_path / 'ours'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "--vision_tower" in done.stderr
    done = convert_hf(root, f"--source={source}", f"--vision_tower={clip}", f"--out={tmp_path / 'ours'}")
    assert done.returncode == 0 and "template vicuna_v1, from llava_original_split" in done.stdout
    assert "Warning" not in done.stderr, done.stderr
    done = convert_hf(root, "--export", "--as=adapter", f"--source={tmp_path / 'ours'}", f"--out={tmp_path / 'x'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "it trained no LoRA" in done.stderr


def test_help_shows_the_example(root):
    done = convert_hf(root, "--help")
    assert done.returncode == 0 and doc.strip() in done.stdout and "--dtype" in done.stdout


def test_what_was_trained_or_is_somebody_elses_is_replaced_only_when_asked(root, checkpoint, tmp_path):
    source, out = f"--source={checkpoint}", tmp_path / "ours"
    assert convert_hf(root, source, f"--out={out}").returncode == 0
    done = convert_hf(root, source, f"--out={out}")
    assert done.returncode == 0 and f"; replaces what came from {checkpoint}" in done.stdout
    provenance = json.loads((out / "provenance.json").read_text())
    (out / "provenance.json").write_text(json.dumps({"kind": "npo", "packages": provenance["packages"]}))
    done = convert_hf(root, source, f"--out={out}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds a trained model (npo)" in done.stderr and "--overwrite" in done.stderr
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("precious")
    done = convert_hf(root, source, f"--out={tmp_path / 'thesis'}")
    assert done.returncode == 2 and "--overwrite" in done.stderr and (tmp_path / "thesis" / "text").exists()
    assert convert_hf(root, source, f"--out={out}", "--overwrite").returncode == 0
    done = convert_hf(root, source, f"--out={checkpoint}", "--overwrite")
    assert done.returncode == 2 and "holds the source" in done.stderr


def test_an_export_of_another_trained_model_is_kept(root, checkpoint, tmp_path):
    for name, kind in (("npo", "npo"), ("rmu", "rmu")):
        convert_hf(root, f"--source={checkpoint}", f"--out={tmp_path / name}")
        (tmp_path / name / "provenance.json").write_text(json.dumps({"kind": kind}))
    export = ["--export", f"--out={tmp_path / 'hf'}"]
    for _ in range(2):  # the same model again
        done = convert_hf(root, *export, f"--source={tmp_path / 'npo'}")
        assert done.returncode == 0 and "written" in done.stdout, done.stderr
    done = convert_hf(root, *export, f"--source={tmp_path / 'rmu'}")
    assert done.returncode == 2 and "holds a trained model (npo)" in done.stderr
    assert convert_hf(root, *export, f"--source={tmp_path / 'rmu'}", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("runs/bas", "did you mean"),
        ("rusn/base", "did you mean"),
        ("./base", "no such folder"),
        ("runs/other", "holds none of that name"),
        ("runs/other", "hub:runs/other"),
        ("~/nothing", "no such folder"),
    ],
)
def test_a_mistyped_path_is_not_asked_for_on_the_hub(root, source, what, tmp_path):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    done = subprocess.run(
        [root / "bin" / "convert_hf", f"--source={source}", "--out=x"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert what in done.stderr and "cannot be fetched" not in done.stderr


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.json"]
)
@pytest.mark.parametrize("text", ["[" * 20_000, '{"a": ' * 20_000, '{"model_type": "\\ud800"}', "", "[]", "nul"])
def test_hostile_configs_are_one_line(root, name, text, checkpoint, tmp_path):
    import shutil

    hostile = shutil.copytree(checkpoint, tmp_path / "hostile")
    (hostile / name).write_text(text)
    done = convert_hf(root, f"--source={hostile}", f"--out={tmp_path / 'x'}")
    assert done.returncode in (0, 2) and done.stderr.count("\n") == (done.returncode == 2), done.stderr
    assert (tmp_path / "x").exists() == (done.returncode == 0)
    assert done.returncode == 2 or name in ("tokenizer_config.json", "chat_template.json")
