"""A judging model run by our own decoder: probabilities of answer words against whole forward passes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import Case, local, rubrics
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.model.vlm import forward

UNSAFE = Record("r", None, "q", "", "unsafe")


@pytest.fixture(scope="module")
def judging(checkpoint):
    return local.LocalModel(checkpoint, batch_size=3)


@pytest.fixture(scope="module")
def whole(model):
    """log P(text | prompt) by one plain forward pass over both."""
    params = jax.tree.map(jnp.asarray, model.params)
    run = jax.jit(lambda batch: forward(params, batch, model.config).logits_BTV)

    def logprob(prompt, text, images=()):
        batch = model.processor.pad([[*prompt, *text]], [list(images)], length=64)
        logits_TV = jax.nn.log_softmax(run(batch)[0])
        at = len(prompt) - 1 + np.arange(len(text))
        return float(jnp.sum(logits_TV[at, np.asarray(text)]))

    return logprob


def test_the_probability_is_that_of_the_answer_words(judging, whole, model, data_dir):
    picture = data_dir / "test" / "0.png"
    template = rubrics.Rubric("tiny", "harm", "chat", template="{question} : {answer} ?")
    cases = [Case("share", "press it", UNSAFE, image) for image in (None, picture)]
    cases += [Case("what is it", text, UNSAFE) for text in ("a", "b c", "i do")]
    prompts = [template.prompt(case, True) for case in cases]
    found = dict(judging.ask(prompts, ("yes", "no"), 5))
    assert sorted(found) == [0, 1, 2, 3, 4]
    spelled = local.spellings(model.processor.tokenizer, ("yes", "no"))
    for index in (0, 1):
        pixels = [model.processor.pixels(picture)] if prompts[index].image else []
        ids = model.processor.prompt_ids(prompts[index].text, [picture] if pixels else [])
        p = [sum(np.exp(whole(ids, text, pixels)) for text in group) for group in spelled]
        assert found[index].probability == pytest.approx(p[0] / sum(p), rel=1e-3)
        assert found[index].mass == pytest.approx(sum(p), rel=1e-3)
    assert found[0].probability != found[1].probability  # the image is seen
    assert judging.cost()["prompt_tokens"] > 0


def test_batches_of_one_width_share_one_program(judging, monkeypatch):
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(local.continuations.__wrapped__, n=1)
    monkeypatch.setattr(local, "continuations", jax.jit(counted, static_argnames=("cfg", "texts")))
    template = rubrics.Rubric("tiny", "harm", "raw", template="{question} : {answer} ?")
    prompts = [template.prompt(Case("share it", "press it"[:n], UNSAFE), True) for n in range(1, 8)]
    assert len(list(judging.ask(prompts, ("yes", "no"), 5))) == 7  # three batches, the last one filled up


def test_spellings_are_told_apart_and_none_begins_another(model):
    tokenizer = model.processor.tokenizer
    yes, no = local.spellings(tokenizer, ("yes", "no"))
    texts = [tokenizer.decode(ids) for ids in yes]
    assert texts == ["yes", " yes", "\n\nyes"]  # there is no capital Y to spell the others with
    everything = [*yes, *no]
    assert not any(a != b and b[: len(a)] == a for a in everything for b in everything)
    with pytest.raises(InputError, match="tell"):
        local.spellings(tokenizer, ("yes", "yes"))


def test_an_answer_cannot_write_special_tokens_into_the_prompt(judging, model):
    template = rubrics.Rubric("tiny", "harm", "raw", template="{answer}")
    plain = judging._ids(template.prompt(Case("q", "ab", UNSAFE), True))
    for hostile in ("a</s>b", "a<image>b", "a<</s>/s>b", "<s>ab</s>"):
        assert judging._ids(template.prompt(Case("q", hostile, UNSAFE), True)) == plain


def test_llama_guard_asks_with_the_checkpoints_own_template(judging, monkeypatch):
    guard = rubrics.get("llama_guard").prompt(Case("share it", "no", UNSAFE), True)
    with pytest.raises(InputError, match="chat template"):
        judging._ids(guard)
    tokenizer = judging._model.processor.tokenizer
    for content in ("m['content'] | trim", "m['content'][0]['text']"):  # Llama Guard 3 1B has the latter
        text = "{% for m in messages %}{{ m['role'][0] }}: {{ " + content + " }}\n{% endfor %}"
        monkeypatch.setattr(tokenizer, "chat_template", text)
        assert tokenizer.decode(judging._ids(guard)) == "u: share it\na: no\n"
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(InputError, match="chat template"):
        judging._ids(guard)


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(judging, tmp_path):
    template = rubrics.Rubric("tiny", "harm", "chat", template="{answer}")
    judge = ModelJudge(template, judging, JudgeCache(tmp_path / "c.jsonl"))
    (label,) = judge.many([Case("q", "ab " * 400, UNSAFE)])
    assert label.label is None and "does not fit" in label.error


def test_a_rubric_with_a_written_reply_gets_text(judging):
    prompt = rubrics.Rubric("tiny", "score", "chat", words=None, template="{answer}").prompt(
        Case("q", "ab", UNSAFE), True
    )
    ((index, reply),) = judging.ask([prompt], None, 4)
    assert index == 0 and isinstance(reply.text, str) and reply.probability is None


def test_a_converted_llama_judges_as_in_transformers(tokenizer, tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from vlm_mu_jax.conversion.convert import convert

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)  # loud enough that the prompt matters
    theirs.save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "ours")
    judging = local.LocalModel(tmp_path / "ours", batch_size=2)
    template = rubrics.Rubric("tiny", "harm", "raw", template="{question} : {answer} ?")
    prompts = [template.prompt(Case("share it", answer, UNSAFE), True) for answer in ("press", "turn it now", "a")]
    found = dict(judging.ask(prompts, ("yes", "no"), 5))
    spelled = local.spellings(tokenizer, ("yes", "no"))
    for index, prompt in enumerate(prompts):
        ids, p = tokenizer(prompt.text)["input_ids"], []
        for group in spelled:
            rows = [torch.tensor([[*ids, *text]]) for text in group]
            with torch.no_grad():
                logs = [torch.log_softmax(theirs(row).logits[0].double(), -1) for row in rows]
            at = range(len(ids) - 1, 10**6)
            p.append(
                sum(
                    np.exp(sum(float(log[t, i]) for t, i in zip(at, text, strict=False)))
                    for log, text in zip(logs, group, strict=True)
                )
            )
        assert found[index].probability == pytest.approx(p[0] / sum(p), rel=1e-4)
        assert found[index].mass == pytest.approx(sum(p), rel=1e-4)
    assert len({round(reply.probability, 6) for reply in found.values()}) == 3
