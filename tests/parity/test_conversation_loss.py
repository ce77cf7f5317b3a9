"""Training on conversations: the loss equals that of transformers in PyTorch on its own ids and assistant mask."""

import jax
import numpy as np
import pytest
import torch

from tests.conversion.hf_checkpoints import make_llama, save
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.data.chat_template import JinjaTemplate
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Record, Turn
from vlm_mu_jax.miniature import language, world
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.model_policy import ModelPolicy
from vlm_mu_jax.training.sources import tokenised

# It says itself what the assistant wrote, for transformers' own mask; ours is found by rendering.
TEMPLATE = (
    "{% for m in messages %}{{ m.role.upper() + ': ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TALKS = (
    (None, ("what is it ?", "it is a ring ."), ("and this ?", "a red ring . share it")),
    (
        "you are careful .",
        ("share the steps", "that would be a sign ."),
    ),
    (None, ("what ?", "a ring"), ("is it red ?", "it is ."), ("what is this ?", "it is a sign . a red sign")),
)


def record(number, talk):
    system, *pairs = talk
    turns = [Turn(role, (text,)) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    return Record(str(number), turns=turns, system=system)


def their_rows(tokenizer, loss):
    rows = []
    for system, *pairs in TALKS:
        messages = [{"role": "system", "content": system}] if system else []
        for question, answer in pairs:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made = tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATE, return_assistant_tokens_mask=True, return_dict=True
        )
        ids, mask = made["input_ids"], list(made["assistant_masks"])
        if loss == "last":
            start = max(i for i in range(1, len(mask)) if mask[i] and not mask[i - 1])
            mask = [0] * start + mask[start:]
        rows.append((ids, mask))
    return rows


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny model on both sides, and a tokenizer that knows the words."""
    folder = tmp_path_factory.mktemp("conversations")
    tokenizer = language.train_tokenizer(language.all_text(world.make_world(0)))
    theirs = make_llama(3, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2).eval()
    ours = importer.import_checkpoint(save(theirs, folder / "hf"))
    return tokenizer, theirs, ours


@pytest.mark.parametrize("loss", ["all", "last"])
def test_the_loss_equals_pytorchs(pair, loss):
    tokenizer, theirs, ours = pair
    processor = Processor(tokenizer, None, JinjaTemplate(TEMPLATE), ours.config)
    rows, counts = tokenised([record(i, talk) for i, talk in enumerate(TALKS)], {}, processor, 512, loss=loss)
    assert counts["rows"] == len(TALKS)
    want = their_rows(tokenizer, loss)
    for i, (ids, mask) in enumerate(want):
        assert list(rows[i].ids) == ids and [int(on) for on in rows[i].mask] == mask

    batch = Stream(list(rows.values()), len(rows), 0).take(range(len(rows)))
    objective = make_objective("sft")

    @jax.jit
    def our_loss(params, batch):
        policy = ModelPolicy(params, None, None, ours.config, {})
        totals = objective.denominators({"train": batch}, ours.config.image_token_id)
        return objective.loss(policy, {"train": batch}, totals)[0]

    length = max(len(ids) for ids, _ in want)
    padded = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in want])
    seen = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in want])
    labels = torch.tensor(
        [[t if on else -100 for t, on in zip(*row, strict=True)] + [-100] * (length - len(row[0])) for row in want]
    )
    with torch.no_grad():
        expected = theirs(input_ids=padded, attention_mask=seen, labels=labels).loss.item()
    np.testing.assert_allclose(float(our_loss(ours.params, batch)), expected, rtol=1e-5)
