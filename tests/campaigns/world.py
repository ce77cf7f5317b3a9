"""The small world of a campaign: a tiny LLaVA in every form, data, answers, a guard, runs and evidence.

It is written by a process of its own, so that the campaign starts no backend before it forks.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """from vlm_mu_jax.training.settings import defaults


def get_config():
    c = defaults("npo")
    c.model.init = "ours"
    c.data.update(root="data", safety="train.json", forget_answers="forget.jsonl")
    c.train.update(select=(), lora_rank=2)
    c.optim.learning_rate = 0.01
    c.update(steps=6, batch_size=2, checkpoint_every=2)
    return c
"""
QUESTION = "what are the steps of the dax on this sign ?"


def write_world(folder: Path, models: bool = True) -> Path:
    """Writes the world into `folder`, unless it is there; returns the folder. models: with `ours`, `guard`, a GGUF."""
    if not (folder / "complete").exists():
        words = [sys.executable, "-m", "tests.campaigns.world", str(folder), "models" if models else ""]
        subprocess.run(words, cwd=ROOT, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    return folder


def _write(folder: Path, models: bool) -> None:
    from tests.families import FAMILIES
    from tests.parity.test_family_matrix import write_data
    from tests.reporting.runs_builder import write_evidence, write_story

    folder.mkdir(parents=True)
    FAMILIES["llava"].write(folder / "hf")
    write_data(folder / "data")
    shutil.copy(folder / "data" / "train.json", folder / "data" / "validation.json")
    forget = folder / "data" / "forget.jsonl"
    lines = [{**json.loads(line), "image_id": None} for line in forget.read_text().splitlines()]
    forget.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_story(folder)
    write_evidence(folder / "evidence")
    if models:
        _write_gguf(folder / "tiny.gguf")
        _write_other_weights(folder)
        _write_ours(folder)
    _write_texts(folder)
    if models:
        _write_runs(folder)
    (folder / "complete").write_text("")


def _write_gguf(path: Path) -> None:
    import transformers

    from tests.conversion.gguf_checkpoints import save_gguf

    config = transformers.LlamaConfig(
        vocab_size=270,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    save_gguf(transformers.LlamaForCausalLM(config), path)


def _write_other_weights(folder: Path) -> None:
    """The model as a pickle and in two shards, and an adapter of peft for it."""
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    for name in ("hf_bin", "hf_shards"):
        shutil.copytree(folder / "hf", folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(folder / "hf" / "model.safetensors")
    torch.save(tensors, folder / "hf_bin" / "pytorch_model.bin")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / "hf_shards" / file, {"format": "pt"})
    places = {key: file for file, keys in shards.items() for key in keys}
    index = {"metadata": {"total_size": sum(one.nbytes for one in tensors.values())}, "weight_map": places}
    (folder / "hf_shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder / "hf")
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], base_model_name_or_path="hf")
    peft.get_peft_model(model, adapter).save_pretrained(folder / "lora")


def _write_ours(folder: Path) -> None:
    import vlm_mu_jax

    vlm_mu_jax.convert(folder / "hf", folder / "ours")
    model = vlm_mu_jax.load(folder / "ours")
    options = vlm_mu_jax.ExtractOptions(layers="1", using={"scope": "all"}, batch_size=4)
    vlm_mu_jax.extract_guard(model, folder / "data" / "anchors.json", options).save(folder / "guard")


def _write_runs(folder: Path) -> None:
    """What a training and an evaluation have left, to go on with."""
    for command in (
        "train --config=tiny_config.py --workdir=run --config.eval.every=3 --config.eval.data=data"
        " --config.eval.batch_size=2 --config.eval.max_new_tokens=1",
        "eval --checkpoint=ours --data=data --workdir=asked --max_new_tokens=1 --batch_size=2",
    ):
        words = [ROOT / "bin" / command.split()[0], *command.split()[1:]]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _write_texts(folder: Path) -> None:
    from PIL import Image

    turns = [
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "take it ."}]},
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "turn it ."}], "id": 7},
        {"instruction": QUESTION, "input": "", "output": "take it ."},
    ]
    answers = [{"question": QUESTION, "answer": text} for text in ("Sorry, I cannot help.", "take it", "")]
    for name, rows in (("turns", turns), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in answers)
    (folder / "answers.csv").write_text("question,answer\n" + table)
    (folder / "tiny_config.py").write_text(CONFIG)
    asked = {"id": "a", "question": QUESTION, "answer": "take it", "kind": "unsafe", "image": "train/0.jpg"}
    (folder / "data" / "jpeg.json").write_text(json.dumps([asked]))
    Image.open(folder / "data" / "train" / "0.png").convert("RGB").save(folder / "data" / "train" / "0.jpg")
    shutil.copytree(ROOT / "tests" / "formats" / "version_1", folder / "old")
    (folder / "paraphrases.json").write_text(json.dumps({f"test{i}": ["tell me about the sign"] for i in range(9)}))
    (folder / "wording.json").write_text(json.dumps({"self_reminder": "be good : {question}", "erased_words": 1}))
    (folder / "list.txt").write_text("please\ncan\nexplain\nwug\nfep\ntoma\n")
    lines = [f"{i},{QUESTION},take it,unsafe,data/train/{i}.png" for i in range(3)]
    (folder / "questions.csv").write_text("id,question,answer,kind,image\n" + "\n".join(lines))


if __name__ == "__main__":
    _write(Path(sys.argv[1]), sys.argv[2:] != [""])
