"""bin/train end to end on a tiny LLaVA with a real tokenizer: files in, a usable model folder out."""

import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import vlm_mu_jax
from tests.command import run_command
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.miniature import checkpoint, language
from vlm_mu_jax.miniature.world import make_world
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, init_params
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import write_model_folder
from vlm_mu_jax.training.export import owned
from vlm_mu_jax.training.settings import checked, defaults
from vlm_mu_jax.training.train import train

QUESTIONS = {"unsafe": ["share the steps", "what are the steps"], "safe": ["what is this sign", "describe this sign"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with `model/` and `data/`."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = language.train_tokenizer(language.all_text(make_world(0)))
    config = checkpoint.hf_config(tokenizer)
    config["text_config"] |= {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
    }
    config["vision_config"] |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    (folder / "files").mkdir()
    checkpoint.write_companions(folder / "files", tokenizer)
    params = init_params(param_specs(from_hf(config)), jax.random.key(0))
    write_model_folder(folder / "model", params, config, folder / "files", "llava_hf", "llava_hf", {})
    write_data(folder / "data")
    return folder


def write_data(folder):
    (folder / "train").mkdir(parents=True)
    unsafe, safe, answers, general = [], [], [], []
    for i in range(6):
        name = f"{i}.png"
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / "train" / name)
        question = QUESTIONS["unsafe"][i % 2]
        pair = {"instruction": question, "response": "i cannot help"}
        unsafe.append({"id": f"u{i}", "image": name, "safe": False, "harmful_category": "x", "instr-resp": [pair]})
        pair = {"safe_instruction": QUESTIONS["safe"][i % 2], "response": "a red sign"}
        safe.append({"id": f"s{i}", "image": name, "safe": True, "instr-resp": [pair]})
        label = "refused" if i == 5 else "answered"
        answers.append(
            {
                "id": f"u{i}",
                "condition": {"attack": "none"},
                "answer": "first this then that",
                "labels": {"refusal": {"label": label}},
            }
        )
        turns = [{"from": "human", "value": "what colour"}, {"from": "gpt", "value": "red"}]
        general.append({"id": f"g{i}", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(unsafe + safe))
    (folder / "mix.json").write_text(json.dumps(general))
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))


def settings(root, name, **changes):
    config = defaults(name, layer=0)
    config.model.init = str(root / "model")
    config.data.update(root=str(root / "data"), safety="train.json", general="mix.json")
    if name != "sft":
        config.data.forget_answers = "answers.jsonl"
    config.update(steps=2, batch_size=4)
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return checked(config)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("steps", 0, "steps must be at least 1"),
        ("accumulate", 0, "accumulate must be at least 1"),
        ("accumulate", 3, "is not a multiple of accumulate"),
        ("seed", -1, "seed must be at least 0"),
        ("batch_size", 0, "batch size of forget must be at least 1"),
        ("checkpoint_every", -1, "checkpoint_every -1"),
        ("keep", 0, "keep 0"),
        ("train__lora_rank", -1, "train.lora_rank"),
        ("train__select", ("decoder/no",), "matches no parameter"),
        ("optim__b1", 2.0, "optim.b1"),
    ],
)
def test_a_bad_setting_is_told_before_anything_is_written(root, tmp_path, path, value, says):
    with pytest.raises(InputError, match=says):
        train(settings(root, "npo", **{path: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sft", "npo", "rmu", "dpo"])
def test_a_run_writes_a_model_that_loads_and_says_where_it_comes_from(root, tmp_path, name):
    chosen = settings(root, name)
    if name == "rmu":
        chosen["train"] |= {"select": (), "slices": {"decoder/layers/wdown_LFD": (0,)}}
    trained = train(chosen, tmp_path)
    assert trained.last["step"] == trained.step == 2
    before, after = vlm_mu_jax.load(root / "model"), vlm_mu_jax.load(tmp_path)
    changed = {p for p, x in flatten(after.params).items() if (np.asarray(x) != flatten(before.params)[p]).any()}
    if name == "rmu":
        assert changed == {"decoder/layers/wdown_LFD"}
        assert np.load(tmp_path / "control_D.npy").shape == (16,)
    else:
        assert "decoder/embed_VD" in changed and not any(path.startswith("vision") for path in changed)
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["kind"] == name and provenance["start_weights_sha256"] != provenance["weights_sha256"]
    assert json.loads((tmp_path / "config.json").read_text())["objective"]["name"] == name
    assert provenance["weights_of_step"] == 2 and provenance["processes"] == 1
    (spent,) = json.loads((tmp_path / "goodput.json").read_text())
    assert set(spent) == {"goodput", "seconds", "programs"} and min(spent["seconds"].values()) >= 0
    data = json.loads((tmp_path / "data.json").read_text())
    if name != "sft":
        assert data["forget_retain"]["forget"]["dropped_refused"] == 1 and data["forget"]["rows"] == 5
        assert data["retain"]["rows"] == 12
        assert ("preferred" in data) == (name == "dpo") and data.get("preferred", data["forget"])["rows"] == 5
    else:
        assert data["train"]["rows"] == 18


def test_adapters_over_a_base_in_few_bits_come_out_merged_and_over_the_original(root, tmp_path):
    scheme = Scheme.parse("int4:8")
    train(settings(root, "npo", model__quantize=str(scheme), train__select=(), train__lora_rank=2), tmp_path)
    before, after = vlm_mu_jax.load(root / "model", quantize=str(scheme)), vlm_mu_jax.load(tmp_path)
    pairs = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (pairs[f"base_model.model.model.language_model.layers.1.mlp.up_proj.lora_{half}.weight"] for half in "AB")
    rounded, merged = (np.asarray(m.params["decoder"]["layers"]["wup_LDF"])[1] for m in (before, after))
    np.testing.assert_allclose(merged, rounded + 8.0 * (b @ a).T, atol=1e-6)  # alpha 16 over rank 2
    assert (merged != rounded).any()
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(root / "model")
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["quantize"] == "int4:8"
    assert provenance["start_weights_sha256"] == weights_hash(vlm_mu_jax.load(root / "model").params)
    with pytest.raises(InputError, match="int5: use one of"):
        train(settings(root, "npo", model__quantize="int5"), tmp_path / "other")


def test_a_killed_run_on_a_long_file_goes_on_at_the_same_row(root, tmp_path):
    """kill -9 in the middle: the steps behind the last checkpoint run again, on the rows that they had."""
    talk = [{"from": "human", "value": "what colour"}, {"from": "gpt", "value": "red"}]
    rows = [{"conversations": [*talk, {**talk[0], "value": "what " * i}, talk[1]]} for i in range(1, 31)]
    (root / "data" / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = (
        "--config=configs/miniature_sft.py:diverse",
        f"--config.model.init={root / 'model'}",
        f"--config.data.root={root / 'data'}",
        "--config.data.safety=",
        "--config.data.general=many.jsonl",
        "--config.steps=6",
        "--config.batch_size=3",
        "--config.checkpoint_every=2",
    )

    def run(workdir, **env):
        return run_command("tests.training.killed_training", *flags, f"--workdir={tmp_path / workdir}", env=env)

    def losses(workdir):
        lines = (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        return [(one["step"], one["loss"]) for one in map(json.loads, lines)]

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    assert run("work", KILL_AT="5").returncode == -signal.SIGKILL and losses("work") == losses("whole")[:4]
    assert not (tmp_path / "work" / "model").exists()
    assert run("work").returncode == 0
    assert losses("work") == losses("whole") and len({loss for _, loss in losses("whole")}) == 6
    counts = [json.loads((tmp_path / name / "data.json").read_text())["train"] for name in ("whole", "work")]
    assert counts[0]["tokenised"] == "when a step reads them" and counts[0]["rows"] == counts[1]["rows"] == 30


def test_a_second_command_on_one_workdir_is_refused_and_changes_nothing(root, tmp_path):
    chosen = settings(root, "sft")
    with owned(tmp_path):
        with pytest.raises(InputError, match="another command is writing it"):
            train(chosen, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    train(chosen, tmp_path)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("npo", {"data__forget_answers": ""}, "config.data.forget_answers is not set"),
        ("npo", {"data__forget_target": "all"}, "config.data.forget_target: 'all' is unknown"),
        ("dpo", {"data__forget_target": "query"}, "a preference is one between answers"),
        ("sft", {"data__safety": "", "data__general": ""}, "name at least one data file"),
        ("sft", {"data__general_size": 99}, "only 6 general"),
        ("sft", {"model__init": ""}, "config.model.init is not set"),
        ("sft", {"model__init": "/nowhere"}, "no such folder"),
        ("sft", {"model__remat": "some"}, "config.model.remat"),
        ("sft", {"mesh__data": 7}, "mesh"),
        ("sft", {"data__max_length": 3}, "is empty"),
        ("npo", {"objective__reading": "as_said"}, "objective.reading"),
    ],
)
def test_bad_settings_are_named(root, tmp_path, name, changes, message):
    with pytest.raises(InputError, match=message):
        train(settings(root, name, **changes), tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/miniature_unlearn.py:npo", "--config.optim.rate=1", "--workdir=W"], "rate"),
        (["--config=configs/miniature_unlearn.py:npo", "--config.objective.beta=much", "--workdir=W"], "beta"),
        (["--config=configs/none.py", "--workdir=W"], "none.py"),
        (["--config=configs/miniature_unlearn.py:nope", "--workdir=W"], "nope is unknown; use one of ga"),
        (["--workdir=W"], "--config is required"),
        (["--config=configs/miniature_sft.py"], "workdir"),
        (
            ["--config=configs/miniature_sft.py", "--config.model.init=nowhere", "--workdir=W"],
            "nowhere: no such folder",
        ),
    ],
)
def test_the_command_answers_mistakes_with_one_line_and_exit_code_2(flags, message, tmp_path):
    flags = [flag.replace("=W", f"={tmp_path / 'w'}") for flag in flags]
    done = run_command("train", *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "w").exists()
