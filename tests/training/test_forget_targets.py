"""Which tokens of a forget record carry the loss, and how forget records are scored."""

import math
from types import SimpleNamespace

import jax
import pytest

from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.miniature import checkpoint, language, world
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.training.forget_scores import score
from vlm_mu_jax.training.sources import tokenised


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = language.train_tokenizer(language.all_text(world.make_world(0)))
    checkpoint.write_companions(folder, tokenizer)
    cfg = from_hf(checkpoint.hf_config(tokenizer))
    return Processor.from_folder(folder, cfg)


FORGET = [
    Record("u0", None, "share the steps", "that would be a sign .", "unsafe"),
    Record("u1", None, "what is this", "it is a sign .", "unsafe"),
]


def said(processor, row, on=True):
    return processor.tokenizer.decode([i for i, m in zip(row.ids, row.mask, strict=True) if m == on])


def test_targets_mark_the_answer_the_query_or_both(processor):
    rows = {t: tokenised(FORGET, {}, processor, 99, t)[0][0] for t in ("answer", "query", "both")}
    question, answer = FORGET[0].question, FORGET[0].answer
    assert said(processor, rows["query"]).strip() == question
    assert answer.replace(" ", "") in said(processor, rows["answer"]).replace(" ", "")
    assert question not in said(processor, rows["answer"])
    both = said(processor, rows["both"]).replace(" ", "")
    assert both.startswith(question.replace(" ", "")) and answer.replace(" ", "") in both
    assert "ASSISTANT" not in both and "USER" not in both
    assert rows["both"].ids == rows["answer"].ids
    assert rows["query"].ids == tuple(processor.prompt_ids(question, 0))
    assert sum(rows["both"].mask) == sum(rows["answer"].mask) + sum(rows["query"].mask)


def test_the_answer_stands_once_in_a_row(processor):
    """The public formatting for RMU puts it into the question as well."""
    row = tokenised(FORGET, {}, processor, 99)[0][0]
    ids = tuple(i for i, m in zip(row.ids, row.mask, strict=True) if m)[:-1]  # without the end token
    found = [at for at in range(len(row.ids)) if row.ids[at : at + len(ids)] == ids]
    assert len(found) == 1


def test_a_query_needs_no_answer_and_question_spans_hold_with_an_image(processor):
    empty = Record("u2", None, "share the steps", "", "unsafe")
    assert tokenised([empty], {}, processor, 99, "query")[1]["rows"] == 1
    assert tokenised([empty], {}, processor, 99)[1]["without_answer"] == 1
    ids = processor.prompt_ids("share the steps", 1)
    start, end = processor.question_span("share the steps", 1)
    assert processor.tokenizer.decode(ids[start:end]).strip() == "share the steps"
    assert processor.cfg.image_token_id in ids[:start]


def test_scores_are_the_mean_loss_and_the_norm_of_its_gradient(processor):
    cfg = from_hf(checkpoint.hf_config(processor.tokenizer))
    text = type(cfg)(type(cfg.text)(V=cfg.text.V, D=16, L=1, N=2, K=2, H=8, F=24))
    params = init_params(param_specs(text), jax.random.key(0))
    model = SimpleNamespace(params=params, config=text, processor=processor)
    loss = score(model, FORGET, None, "loss", buckets=1)
    assert all(abs(value - math.log(cfg.text.V)) < 1.5 for value in loss.values()), "near uniform at random weights"
    norm = score(model, FORGET, None, "gradient_norm", buckets=1)
    assert set(loss) == set(norm) == {"u0", "u1"} and all(0 < v < float("inf") for v in norm.values())
    # Against its gradient the loss falls by step * norm^2, to first order.
    step = 1e-3
    gradient = _gradient(text, params, processor)
    moved = {**params, "decoder": jax.tree.map(lambda p, g: p - step * g, params["decoder"], gradient)}
    after = score(SimpleNamespace(params=moved, config=text, processor=processor), FORGET[:1], None, "loss", buckets=1)
    assert loss["u0"] - after["u0"] == pytest.approx(step * norm["u0"] ** 2, rel=0.05)


def _gradient(cfg, params, processor):
    from vlm_mu_jax.data.batches import Stream
    from vlm_mu_jax.training.model_policy import ModelPolicy

    rows = tokenised(FORGET[:1], {}, processor, 99)[0]
    batch = Stream([rows[0]], 1, 0).take([0])

    def loss(decoder):
        nll_B, tokens_B = ModelPolicy({**params, "decoder": decoder}, None, None, cfg, {}).nll(batch)
        return nll_B[0] / tokens_B[0]

    return jax.grad(loss)(params["decoder"])
