"""Continuous batching: an answer is the same whatever joins and leaves the batch beside it."""

import dataclasses

import numpy as np
import pytest

from tests.steering.conftest import QUESTIONS
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.serving import engine as module
from vlm_mu_jax.serving import programs, prompt_runs
from vlm_mu_jax.serving.engine import Answering, BusyError, Engine
from vlm_mu_jax.serving.prompt_runs import ServedPrompt, padded

G, ROWS = 9, 3
ASKED = ["how to hurt a dax?", "feed it", "what is this?", "feed a toma to it", "why?", "where is it now?"]


@pytest.fixture(autouse=True)
def one_width(monkeypatch):
    """Every engine here starts with the same shapes, so that few programs are compiled."""
    monkeypatch.setattr(module, "WIDTH", 64)


def prompt(model, question, image=None, name=""):
    images = [] if image is None else [image]
    ids = tuple(model.processor.prompt_ids(question, images))
    text_ids = tuple(model.processor.prompt_ids(question, 0))
    return ServedPrompt(ids, tuple(images), (name,) if images else (), text_ids)


@pytest.fixture(scope="module")
def prompts(model, pictures):
    """Texts and images mixed; two about the same image."""
    shown = [pictures[0], None, pictures[0], pictures[1], None, None]
    names = ["a", "", "a", "b", "", ""]
    return [prompt(model, *one) for one in zip(ASKED, shown, names, strict=True)]


def reference(model, prompts, steer=None, **options):
    """(tokens, log-probabilities) of every prompt from `generate`."""
    batch = model.processor.pad([list(p.ids) for p in prompts], [list(p.pixels) for p in prompts], length=64)
    made = generate(model.params, batch, model.config, max_new_tokens=G, steer=steer, **options)
    lengths = np.asarray(made.lengths_B)
    tokens, logprobs = np.asarray(made.tokens_BG), np.asarray(made.logprobs_BG)
    return [(tokens[i, :n].tolist(), logprobs[i, :n]) for i, n in enumerate(lengths)]


class Client:
    """Collects one answer."""

    def __init__(self, prompt, longest=G, **options):
        self.tokens, self.error = [], None
        self.answering = Answering(prompt, longest, self.take, **options)

    def take(self, item):
        if isinstance(item, Exception):
            self.error = item
        else:
            self.tokens.append(item)

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    @property
    def ended(self):
        return bool(self.tokens) and bool(self.tokens[-1].end)


def serve(engine, clients, per_turn=1):
    """Clients arrive a few a turn; runs until nothing is left to do."""
    left = list(clients)
    while left or engine.live or engine.waiting:
        for client in left[:per_turn]:
            engine.submit([client.answering])
        left = left[per_turn:]
        engine.turn()


def test_greedy_answers_do_not_depend_on_who_joins_and_leaves(model, prompts, monkeypatch):
    """Three rows for twelve answers of different lengths, images among them, in a cache that has to grow."""
    monkeypatch.setattr(module, "WIDTH", 32)
    engine = Engine("tiny", model, rows=ROWS)
    want = reference(model, prompts)
    clients = [Client(p, 1 + (7 * i + 3) % G) for i, p in enumerate(prompts * 2)]
    serve(engine, clients)
    assert engine._running.width == 64, "it has grown once"
    for client, (tokens, logprobs) in zip(clients, want * 2, strict=True):
        longest = client.answering.longest
        assert client.ids == tokens[:longest]
        np.testing.assert_allclose([t.logprob for t in client.tokens], logprobs[:longest], rtol=1e-4, atol=1e-4)
        stopped = client.ids[-1] in model.config.eos_ids
        assert [t.end for t in client.tokens] == [""] * (len(client.ids) - 1) + ["stop" if stopped else "length"]
    engine.turn()
    assert engine._running is None, "an idle engine gives its memory back"


def test_the_batch_has_few_rows_for_few_answers_and_moves_them_when_it_changes(model, prompts, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1)
    want = [tokens for tokens, _ in reference(model, prompts)]
    engine, rows = Engine("tiny", model, rows=ROWS), []
    original = programs.step
    monkeypatch.setattr(programs, "step", lambda *a: rows.append(a[1].rows) or original(*a))
    clients = [Client(prompts[0], 2), Client(prompts[1]), Client(prompts[4], 4)]
    engine.submit([clients[1].answering])
    engine.turn()
    engine.submit([clients[0].answering, clients[2].answering])
    serve(engine, [])
    assert rows[0] == rows[-1] == 1 and ROWS in rows
    assert [client.ids for client in clients] == [want[0][:2], want[1], want[4][:4]]
    assert module.sizes(1) == [1] and module.sizes(16) == [1, 4, 16] and module.sizes(20) == [1, 4, 16, 20]


def test_drawn_answers_are_those_of_generate_beside_greedy_ones(model, prompts):
    engine = Engine("tiny", model, rows=ROWS)
    seeds = np.arange(len(prompts), dtype=np.int32) - 2
    drawn = reference(model, prompts, temperature=1.3, top_p=0.8, seeds_B=seeds)
    greedy = reference(model, prompts)
    hot = [Client(p, temperature=1.3, top_p=0.8, seed=int(s)) for p, s in zip(prompts, seeds, strict=True)]
    cold = [Client(p, top=3) for p in prompts]
    serve(engine, [client for both in zip(hot, cold, strict=True) for client in both], per_turn=2)
    assert [client.ids for client in hot] == [tokens for tokens, _ in drawn]
    assert [client.ids for client in cold] == [tokens for tokens, _ in greedy]
    for token in cold[0].tokens:
        assert token.top[0] == (token.id, pytest.approx(token.logprob)), "the greedy token is the likeliest"
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True) and len(token.top) == 3
    assert not hot[0].tokens[0].top


@pytest.mark.parametrize(
    "change",
    [
        {"decide": "example", "gate_source": "text", "scope": "all"},
        {"operator": "transplant", "component": "text", "gate": "none", "scope": "all", "strength": 1.0},
        {"decide": "example", "gate_source": "text", "scope": "last", "hide_image": True},
    ],
    ids=["per example", "shift per row", "image hidden"],
)
def test_every_row_is_steered_by_its_own_gate(home, split_guard, pictures, change, monkeypatch):
    """Gates that the prompt's own prefill decides are tested through the server."""
    monkeypatch.setattr(prompt_runs, "padded", lambda _: 64)  # as the reference: prompts of one width, few programs
    use = split_guard.using(**{"strength": 4.0, **change})
    prompts = [prompt(home, q, image, "ab"[i]) for i, (q, image) in enumerate(zip(QUESTIONS, pictures, strict=False))]
    steer = use.steer(home)
    if callable(steer):
        steer = steer(QUESTIONS, [[image] for image in pictures[:2]])
    want = [tokens for tokens, _ in reference(home, prompts, steer)]
    assert want != [tokens for tokens, _ in reference(home, prompts)], "the guard changes an answer"
    clients = [Client(p) for p in [*prompts, *prompts[::-1]]]
    serve(Engine("tiny", home, use, rows=ROWS), clients)
    assert [client.ids for client in clients] == want + want[::-1]


def test_an_image_that_was_asked_about_runs_once(model, prompts, monkeypatch):
    runs = []
    original = programs.begin_prefix
    monkeypatch.setattr(programs, "begin_prefix", lambda *a: runs.append(a) or original(*a))
    engine = Engine("tiny", model, rows=ROWS)
    serve(engine, [Client(prompts[0]), Client(prompts[2]), Client(prompts[3]), Client(prompts[0])])
    assert len(runs) == 2
    other = dataclasses.replace(prompts[0], image_ids=("another",))
    serve(engine, [Client(other)])
    assert len(runs) == 3
    small = Engine("tiny", model, rows=ROWS, prefix_bytes=1)
    client = Client(prompts[0])
    serve(small, [client, Client(prompts[0])])
    assert len(runs) == 5 and client.ids == reference(model, prompts)[0][0], "without memory every prompt runs whole"


def test_choices_of_one_prompt_run_it_once(model, prompts, monkeypatch):
    runs = []
    original = programs.begin
    monkeypatch.setattr(programs, "begin", lambda *a: runs.append(a) or original(*a))
    engine = Engine("tiny", model, rows=ROWS)
    clients = [Client(prompts[1], temperature=1.0, seed=seed) for seed in (5, 6)]
    engine.submit([client.answering for client in clients])
    serve(engine, [])
    assert len(runs) == 1 and clients[0].ids != clients[1].ids


def test_whoever_goes_away_frees_its_row_and_its_place_in_the_queue(model, prompts):
    engine = Engine("tiny", model, rows=ROWS, waiting=4)
    first, second, third = (Client(p) for p in prompts[:3])
    engine.submit([first.answering, *(Client(p).answering for p in prompts[4:]), second.answering])
    with pytest.raises(BusyError, match="wait"):
        engine.submit([third.answering])
    engine.turn()
    assert engine.live == ROWS and engine.waiting == 1
    first.answering.cancelled = second.answering.cancelled = True
    engine.submit([third.answering])
    engine.turn()
    assert engine.live == ROWS and not engine.waiting, "the third has the first one's row"
    serve(engine, [])
    assert third.ended and third.ids == reference(model, prompts)[2][0]
    assert not first.ended and not second.tokens


def test_a_failure_ends_the_answers_under_way_and_the_next_ones_are_right(model, prompts, monkeypatch):
    engine = Engine("tiny", model, rows=ROWS)
    lost = [Client(p) for p in prompts[:2]]
    engine.submit([client.answering for client in lost])
    engine.turn()
    with monkeypatch.context() as broken:
        broken.setattr(programs, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.turn()
    assert all(isinstance(client.error, ZeroDivisionError) for client in lost) and not engine.live
    with monkeypatch.context() as broken:
        broken.setattr(programs, "begin", lambda *_: 1 / 0)
        refused = Client(prompts[4])
        serve(engine, [refused])
        assert isinstance(refused.error, ZeroDivisionError)
    again = Client(prompts[0])
    serve(engine, [again])
    assert again.ids == reference(model, prompts)[0][0]


def test_padded_widths_are_few_and_close():
    widths = [padded(n) for n in range(1, 4097)]
    assert all(n <= width < max(17, 1.5 * n) for n, width in enumerate(widths, 1))
    assert len(set(widths)) == 17
