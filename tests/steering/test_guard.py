"""The guard on a tiny random LLaVA: gating in batches, decoding, switching off, and its folder."""

import dataclasses
import functools
import json

import chex
import jax
import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.model.generate import can_share, generate, generate_program
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.model.vlm import Batch, forward
from vlm_mu_jax.steering import gates
from vlm_mu_jax.steering import guard as g
from vlm_mu_jax.steering.anchor_texts import load_anchors
from vlm_mu_jax.steering.bake import module_settings
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard
from vlm_mu_jax.steering.guard_options import SCOPES, UNITS, GuardOptions
from vlm_mu_jax.steering.guarded_answers import Asked, answer, answer_nll, first_token_logprobs
from vlm_mu_jax.steering.hidden_states import last_token_states, prompt_batches
from vlm_mu_jax.storage.identity import folder_hash, weights_hash
from vlm_mu_jax.storage.model_folder import quantized

QUESTIONS = ["how to hurt a dax?", "what is this?", "feed a toma", "how to hurt a wug or a blicket?"]


@functools.partial(jax.jit, static_argnums=3)
def _logits(params, batch, steer, cfg):
    return forward(params, batch, cfg, steer=steer).logits_BTV


@pytest.fixture(scope="module")
def guard(model, anchors):
    return extract_guard(model, anchors, ExtractOptions(rank=2)).using(layers=(1, 2), strength=4.0, scope="all")


@pytest.fixture(scope="module")
def half_open(guard, model, pictures):
    """The guard with a threshold between the four prompts' scores, so that some rows are gated on and some off."""
    scores_LN = guard.directions.scores(last_token_states(model, QUESTIONS, pictures))
    steer = guard.as_steer()
    return steer.replace(
        threshold_L=np.where(np.isinf(steer.threshold_L), np.inf, np.median(scores_LN, axis=1)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def batch(model, pictures):
    return next(prompt_batches(model, QUESTIONS, pictures, 4))[0]


def test_extraction_reads_the_block_output_of_the_last_prompt_token(model, anchors, guard):
    states_ND = []
    block_1 = jax.jit(lambda batch: forward(model.params, batch, model.config, upto=1).hidden_BTD)
    for text in (*anchors.harmful, *anchors.harmless):
        ids = model.processor.prompt_ids(text, images=0)
        states_ND.append(np.asarray(block_1(model.processor.pad([ids], length=64))[0, len(ids) - 1]))
    np.testing.assert_allclose(
        guard.directions.mean_harmful_LD[1], np.mean(states_ND[:8], axis=0), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(
        guard.directions.mean_harmless_LD[1], np.mean(states_ND[8:], axis=0), rtol=1e-5, atol=1e-4
    )
    difference_ND = np.array(states_ND[:8]) - np.array(states_ND[8:])
    assert (difference_ND @ guard.directions.basis_LMD[1].T).mean(0).min() > 0
    assert guard.origin["location"] == "block_output" and guard.origin["position"] == "last_prompt_token"
    assert guard.origin["template"] == model.processor.template


def test_states_do_not_depend_on_batch_size_or_neighbours(model, pictures):
    mixed = [pictures[0], None, pictures[2], None]
    together = last_token_states(model, QUESTIONS, mixed, batch_size=4)
    np.testing.assert_allclose(together, last_token_states(model, QUESTIONS, mixed, batch_size=1), atol=1e-4)


def test_mixed_batch_is_gated_per_example_as_one_by_one(model, batch, half_open):
    made = generate(model.params, batch, model.config, max_new_tokens=6, steer=half_open)
    plain = generate(model.params, batch, model.config, max_new_tokens=6)
    gate_LB = np.asarray(made.gate_LB)[[1, 2]]
    assert 0 < gate_LB[0].sum() < 4, "the first gated layer must be on for some rows and off for others"
    for row in range(4):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch)
        one = generate(model.params, alone, model.config, max_new_tokens=6, steer=half_open)
        np.testing.assert_array_equal(one.gate_LB[:, 0], made.gate_LB[:, row])
        np.testing.assert_array_equal(one.tokens_BG[0], made.tokens_BG[row])
        np.testing.assert_allclose(one.logprobs_BG[0], made.logprobs_BG[row], atol=1e-4)
        untouched = not np.asarray(made.gate_LB)[:, row].any()
        assert untouched == np.array_equal(made.logprobs_BG[row], plain.logprobs_BG[row])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gate_off_is_bit_identical(make_model, batch, guard, dtype):
    model = make_model(dtype=dtype)
    closed = guard.using(strength=7.0).as_steer().replace(threshold_L=np.full(4, np.inf, np.float32))
    plain = generate(model.params, batch, model.config, max_new_tokens=6)
    gated = generate(model.params, batch, model.config, max_new_tokens=6, steer=closed)
    made = [(one.tokens_BG, one.lengths_B, one.logprobs_BG) for one in (plain, gated)]
    chex.assert_trees_all_equal(*made)
    assert not np.asarray(gated.gate_LB).any()


def test_rank_keeps_the_first_directions(guard):
    one = guard.using(rank=1)
    np.testing.assert_array_equal(one.as_steer().basis_LMD, guard.as_steer().basis_LMD[:, :1])
    assert one.origin["rank"] == 1 and guard.using(strength=1.0).directions is guard.directions
    with pytest.raises(InputError, match="--rank=3"):
        guard.using(rank=3)


def test_answer_nll_is_that_of_the_steered_prompt_and_what_follows_it(model, guard, pictures):
    """The end token alone is a first answer token; an answer is steered as in one pass over prompt and answer."""
    last, answers = guard.using(scope="last", gate="none"), ["yes", "no no", "a", "it is"]
    first_NV = first_token_logprobs(model, Asked(QUESTIONS, pictures), guard=last, batch_size=4)
    nothing = answer_nll(model, Asked(QUESTIONS, pictures), [""] * 4, guard=last, batch_size=4)
    np.testing.assert_allclose(nothing, -first_NV[:, model.config.eos_ids[0]], atol=1e-4)
    every = guard.using(gate="none")
    found = answer_nll(model, Asked(QUESTIONS, pictures), answers, guard=every, batch_size=4)
    examples = [model.processor.example(q, a, images=1) for q, a in zip(QUESTIONS, answers, strict=True)]
    whole = model.processor.pad([list(e.ids) for e in examples], [[p] for p in pictures])
    logprobs = jax.nn.log_softmax(_logits(model.params, whole, every.as_steer(), model.config))
    for row, example in enumerate(examples):
        said = [-logprobs[row, k - 1, example.ids[k]] for k in range(example.answer_start, len(example.ids))]
        np.testing.assert_allclose(found[row], np.mean(said), atol=1e-3)


@pytest.mark.parametrize("operator", ["amplify", "add", "project_out"])
def test_prefill_and_decode_equal_full_recompute(model, batch, guard, half_open, operator):
    """Every decoded token is steered, with the prompt's gate: its log-probability is that of one whole forward."""
    steer = guard.using(operator=operator).as_steer().replace(threshold_L=half_open.threshold_L)
    made = generate(model.params, batch, model.config, max_new_tokens=6, steer=steer)
    plain = generate(model.params, batch, model.config, max_new_tokens=6)
    assert not np.allclose(made.logprobs_BG[:, 1:], plain.logprobs_BG[:, 1:], atol=1e-3)
    starts, news = np.asarray(batch.lengths_B), np.asarray(made.lengths_B)
    tokens_BT = np.pad(np.asarray(batch.tokens_BT), ((0, 0), (0, 6)))
    for row, (start, new) in enumerate(zip(starts, news, strict=True)):
        tokens_BT[row, start : start + new] = made.tokens_BG[row, :new]
    whole = Batch(tokens_BT, starts + news, batch.pixels_BMHWC)
    logits_BTV = _logits(model.params, whole, steer.replace(gate_LB=made.gate_LB), model.config)
    for row, (start, new) in enumerate(zip(starts, news, strict=True)):
        wanted = jax.nn.log_softmax(logits_BTV[row, start - 1 : start + new - 1])
        wanted = np.asarray(wanted)[np.arange(new), tokens_BT[row, start : start + new]]
        np.testing.assert_allclose(made.logprobs_BG[row, :new], wanted, atol=1e-4)


def test_without_a_guard_the_program_holds_no_trace_of_it(model, batch, half_open):
    """The program handed to the compiler has the same operations as one that never heard of steering."""

    def operations(program, *arguments) -> list[str]:
        text = jax.jit(program).lower(model.params, batch, *arguments).as_text()
        return [line.split(" = ")[1].split()[0] for line in text.splitlines() if " = " in line]

    plain = operations(lambda p, b: forward(p, b, model.config).logits_BTV)
    assert operations(lambda p, b, s: forward(p, b, model.config, steer=s).logits_BTV, None) == plain
    guarded = operations(lambda p, b, s: forward(p, b, model.config, steer=s).logits_BTV, half_open)
    assert len(guarded) > len(plain) > 100


def test_one_compiled_program_serves_every_strength_threshold_and_layer(model, batch, guard):
    generate(model.params, batch, model.config, max_new_tokens=6, steer=guard.as_steer())
    before = generate_program._cache_size()
    for change in (
        {"strength": 0.5},
        {"layers": (0, 3)},
        {"gate": "zero"},
        {"operator": "add"},
        {"operator": "project_out"},
    ):
        generate(model.params, batch, model.config, max_new_tokens=6, steer=guard.using(**change).as_steer())
    assert generate_program._cache_size() == before


@pytest.mark.parametrize("decide, shares", [("layer", {0.0, 0.5, 1.0}), ("example", {0.0, 1.0})])
def test_answers_do_not_depend_on_the_batch(model, guard, pictures, decide, shares):
    """Five questions in batches of four (the last one filled up), forwards and backwards: with other neighbours."""
    use = guard.using(decide=decide, gate="midpoint_blank")
    questions, images = [*QUESTIONS, "feed a dax"], [*pictures, pictures[0]]
    whole = answer(model, Asked(questions, images), guard=use, max_new_tokens=6, batch_size=4)
    assert whole[::-1] == answer(model, Asked(questions[::-1], images[::-1]), guard=use, max_new_tokens=6, batch_size=4)
    assert len(whole) == 5 and {one.gate for one in whole} <= shares


def test_a_gate_that_reads_the_text_does_not_see_the_image(model, guard, pictures):
    """Its decisions are the vote on the questions alone, at text thresholds, whatever image comes with them."""
    use = guard.using(decide="example", gate_source="text")
    threshold_L1 = guard.directions.midpoint_L()[:, None]
    votes_LN = guard.directions.scores(last_token_states(model, QUESTIONS)) > threshold_L1
    expected_N = votes_LN[[1, 2]].mean(0) >= 0.5
    gate_LB = use.steer(model)(QUESTIONS, [[image] for image in pictures]).gate_LB
    np.testing.assert_array_equal(gate_LB[[1, 2]], [expected_N, expected_N])
    assert not gate_LB[[0, 3]].any()
    with pytest.raises(InputError, match="reads the image"):
        use.using(gate="midpoint_blank").threshold_L()
    text_only = dataclasses.replace(use.scores, harmful_blank_LN=None, harmless_blank_LN=None)
    np.testing.assert_array_equal(
        use.using(gate="calibrated").threshold_L(), gates.thresholds("calibrated", text_only, use.options.fpr)
    )


def test_layers_of_their_own_can_vote(model, guard):
    use = guard.using(decide="example", gate_source="text", gate_layers=(3,))
    score_N = guard.directions.scores(last_token_states(model, QUESTIONS))[3]
    gate_LB = use.steer(model)(QUESTIONS).gate_LB
    np.testing.assert_array_equal(gate_LB[[1, 2]], [score_N > guard.directions.midpoint_L()[3]] * 2)
    assert not gate_LB[[0, 3]].any()
    with pytest.raises(InputError, match="decide=example"):
        guard.using(gate_layers=(3,))


def test_a_gate_is_asked_alone_in_batches_of_any_size(model, guard):
    """Five texts in batches of four (the last one filled up) decide as each alone. No text is no decision."""
    use = guard.using(decide="example", gate_source="text", gate_layers=(3,))
    texts = [*QUESTIONS, "feed a dax"]
    steer = use.steer(model)
    found = steer.opens(texts, [None] * 5, 4)
    assert found.tolist() == [bool(steer([text]).gate_LB.any()) for text in texts] and set(found) == {True, False}
    assert steer.opens([], [], 4).shape == (0,)
    assert use.options.votes_on_text and not guard.using(decide="example").options.votes_on_text


def test_a_gate_that_erases_words_opens_on_any_of_the_texts(model, guard):
    """The vote on the whole text or on what is left without up to two words; a text of one word is never empty."""
    use = guard.using(decide="example", gate_source="text", gate_layers=(3,))
    texts = [f"{word} {question}" for word in ("feed", "wug", "toma") for question in QUESTIONS]
    shorter = [QUESTIONS * 3, [question.split(maxsplit=1)[1] for question in QUESTIONS] * 3]
    votes = [use.steer(model)([*some, "dax"]).gate_LB for some in (texts, *shorter)]
    opened = [np.any(votes[:count], 0)[2] for count in (1, 2, 3)]
    assert (opened[0] != opened[1]).any() and not opened[2].all(), "nothing to tell apart"
    for count in (0, 1, 2):
        found = use.using(erased_words=count).steer(model)([*texts, "dax"]).gate_LB
        np.testing.assert_array_equal(found, np.any(votes[: count + 1], 0))
    with pytest.raises(InputError, match="gate_source=text"):
        guard.using(erased_words=1)
    assert "without up to 2 first words" in use.using(erased_words=2).describe()
    with pytest.raises(InputError, match="nearest: --erased_words=0"):
        module_settings(use.using(erased_words=1))


@pytest.mark.parametrize("scope", ["last", "all"])
def test_a_transplanted_component_is_each_rows_own(model, guard, pictures, scope):
    """Four questions together as one by one: the text-only component of a row goes into that row alone."""
    use = guard.using(operator="transplant", strength=1.0, component="text", gate="none", scope=scope)
    together = answer(model, Asked(QUESTIONS, pictures), guard=use, max_new_tokens=6, batch_size=4)
    assert together == answer(model, Asked(QUESTIONS, pictures), guard=use, max_new_tokens=6, batch_size=1)
    text_LND = last_token_states(model, QUESTIONS)
    wanted_NM = np.einsum("nd,md->nm", text_LND[1], guard.directions.basis_LMD[1])
    steer = use.steer(model)(QUESTIONS, [[picture] for picture in pictures])
    found_NM = np.einsum("nd,md->nm", np.asarray(steer.shift)[1], guard.directions.basis_LMD[1])
    np.testing.assert_allclose(found_NM, wanted_NM, atol=1e-4)


def test_the_scope_generated_leaves_the_prompt_alone(model, batch, guard):
    use = guard.using(operator="add", gate="none", scope="generated")
    made = generate(model.params, batch, model.config, max_new_tokens=6, steer=use.as_steer())
    plain = generate(model.params, batch, model.config, max_new_tokens=6)
    np.testing.assert_array_equal(made.logprobs_BG[:, 0], plain.logprobs_BG[:, 0])
    assert np.abs(np.asarray(made.logprobs_BG - plain.logprobs_BG)[:, 1:]).max() > 1e-3


@pytest.mark.parametrize("source", ["self", "text"])
def test_evaluation_gives_the_answers_of_a_guard_that_decides_per_example(model, guard, tmp_path, source):
    use = guard.using(decide="example", gate_source=source)
    wanted = answer(
        model, Asked(QUESTIONS, [model.processor.blank_pixels()] * 4), guard=use, max_new_tokens=6, batch_size=4
    )
    items = [Question(f"q{k}", text, "blank:white") for k, text in enumerate(QUESTIONS[:3])]  # the fourth row is filler
    found = answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(4, 6, steer=use.steer(model)))
    assert [(a.answer, a.tokens) for a in found] == [(a.text, a.tokens) for a in wanted[:3]]


def test_a_guard_on_the_last_token_shares_the_image_and_gives_the_same_answers(model, guard, tmp_path):
    use = guard.using(
        decide="example",
        gate_source="text",
        scope="last",
        gate="none",
        operator="transplant",
        component="text",
        strength=1.0,
    )
    assert can_share(model.config, use.steer(model)) and not can_share(
        model.config, use.using(scope="text").steer(model)
    )
    blank = [model.processor.blank_pixels()] * 4
    whole = next(prompt_batches(model, QUESTIONS, blank, 4))[0]
    made = generate(model.params, whole, model.config, max_new_tokens=6, steer=use.steer(model)(QUESTIONS))
    found = answer(model, Asked(QUESTIONS, blank), guard=use, max_new_tokens=6, batch_size=4)
    items = [Question(f"q{k}", text, "blank:white") for k, text in enumerate(QUESTIONS)]
    asked = answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(4, 6, steer=use.steer(model)))
    ends = set(model.config.eos_ids)
    said = [
        model.processor.decode([int(t) for t in row[:n] if int(t) not in ends]).strip()
        for row, n in zip(np.asarray(made.tokens_BG), np.asarray(made.lengths_B), strict=True)
    ]
    assert [one.text for one in found] == [one.answer for one in asked] == said and len(set(said)) > 1


def test_an_answer_does_not_read_an_image_that_the_guard_hides(model, guard, pictures):
    """The prompt has read it, so the first token stays. Closed gates change nothing. Shared images are hidden."""
    use = guard.using(gate="none", scope="last")
    batch = next(prompt_batches(model, QUESTIONS, pictures, 4))[0]
    plain, hidden = (
        generate(model.params, batch, model.config, max_new_tokens=6, steer=use.using(hide_image=hide).as_steer())
        for hide in (False, True)
    )
    np.testing.assert_array_equal(plain.logprobs_BG[:, 0], hidden.logprobs_BG[:, 0])
    assert np.abs(np.asarray(plain.logprobs_BG - hidden.logprobs_BG)[:, 1:]).max() > 1e-3
    closed = use.using(hide_image=True).as_steer().replace(gated=True, gate_LB=np.zeros((4, 4), np.float32))
    shut = generate(model.params, batch, model.config, max_new_tokens=6, steer=closed)
    bare = generate(model.params, batch, model.config, max_new_tokens=6)
    np.testing.assert_array_equal(shut.logprobs_BG, bare.logprobs_BG)
    blank = [model.processor.blank_pixels()] * 4
    items = [Question(f"q{k}", text, "blank:white") for k, text in enumerate(QUESTIONS)]
    shared = answer_questions(model, items, None, AnswerOptions(4, 6, steer=use.using(hide_image=True).as_steer()))
    alone = next(prompt_batches(model, QUESTIONS, blank, 4))[0]
    made = generate(model.params, alone, model.config, max_new_tokens=6, steer=use.using(hide_image=True).as_steer())
    ends = set(model.config.eos_ids)
    assert [one.answer for one in shared] == [
        model.processor.decode([int(t) for t in row[:n] if int(t) not in ends]).strip()
        for row, n in zip(np.asarray(made.tokens_BG), np.asarray(made.lengths_B), strict=True)
    ]


def test_scope_is_the_models(guard):
    assert [guard.using(scope=scope).as_steer().scope for scope in SCOPES] == list(SCOPES)
    assert guard.using(scope="last", gate="none").as_steer().scope == "last" and GuardOptions().scope == "prompt"


def test_text_only_model_takes_a_guard_and_refuses_images(make_model, anchors, pictures):
    model = make_model(vision=False)
    guard = extract_guard(model, anchors)
    made = answer(model, Asked(QUESTIONS), guard=guard, max_new_tokens=3)
    assert len(made) == 4 and all(0 <= one.gate <= 1 for one in made)
    with pytest.raises(InputError, match="text-only"):
        answer(model, Asked(QUESTIONS, pictures), guard=guard, max_new_tokens=3)
    with pytest.raises(InputError, match="vision"):
        guard.using(gate="midpoint_blank").as_steer()


def test_guard_folder_round_trip(model, guard, tmp_path):
    use = guard.using(operator="add", gate="calibrated", fpr=0.2, norm_preserving=True)
    use.save(tmp_path / "guard", {"selection": {"note": 1}})
    back = g.load_guard(tmp_path / "guard", model)
    assert back.options == use.options and back.origin == use.origin
    meta = tmp_path / "guard" / "guard.json"
    old = json.loads(meta.read_text())
    for name in ("gate_source", "scope"):  # a guard from before there was a choice
        del old["settings"][name]
    meta.write_text(json.dumps(old))
    assert g.load_guard(tmp_path / "guard", model).options == dataclasses.replace(use.options, scope="all")
    chex.assert_trees_all_equal(g.load_guard(tmp_path / "guard", model).as_steer(), use.as_steer())
    meta = json.loads((tmp_path / "guard" / "guard.json").read_text())
    assert meta["origin"]["weights_sha256"] == weights_hash(model.params) and meta["selection"] == {"note": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guard"]


def test_guard_folder_refuses_another_model_unless_told_to(model, make_model, guard, tmp_path):
    guard.save(tmp_path / "guard")
    other = make_model(seed=1)
    with pytest.raises(InputError, match="other weights.*allow_other_model"):
        g.load_guard(tmp_path / "guard", other)
    chex.assert_trees_all_equal(
        g.load_guard(tmp_path / "guard", other, allow_other_model=True).as_steer(),
        guard.as_steer(),
    )
    one_bit = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf, model.params))
    one_bit.params["decoder"]["norm_D"] = np.nextafter(np.asarray(model.params["decoder"]["norm_D"]), np.float32(2))
    with pytest.raises(InputError, match="other weights"):
        g.load_guard(tmp_path / "guard", one_bit)
    in_few_bits = quantized(model, Scheme.parse("int4"))  # a server's weights, with the guard of those before
    assert g.load_guard(tmp_path / "guard", in_few_bits).origin == guard.origin
    with pytest.raises(InputError, match="other weights"):
        g.load_guard(tmp_path / "guard", quantized(other, Scheme.parse("int4")))
    with pytest.raises(InputError, match="width"):  # this one cannot be overruled
        g.load_guard(tmp_path / "guard", make_model(D=16), allow_other_model=True)


def test_an_opened_guard_steers_and_is_identified_by_its_files(model, guard, tmp_path):
    guard.save(tmp_path / "guard")
    steer, identity = g.open_guard(model, tmp_path / "guard")
    chex.assert_trees_all_equal(steer, guard.as_steer())
    assert identity == {"folder": str(tmp_path / "guard"), "sha256": folder_hash(tmp_path / "guard")}
    assert g.open_guard(model, None) == (None, None)


def test_damaged_guard_folders_are_input_errors(model, guard, tmp_path):
    with pytest.raises(InputError, match="not a guard"):
        g.load_guard(tmp_path / "nothing", model)
    guard.save(tmp_path / "guard")
    arrays = tmp_path / "guard" / "guard.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        g.load_guard(tmp_path / "guard", model)
    guard.save(tmp_path / "guard")  # replaces a guard
    meta = tmp_path / "guard" / "guard.json"
    meta.write_text(meta.read_text().replace("threshold", "treshold").replace('"operator"', '"opertor"'))
    with pytest.raises(InputError, match="misspells"):
        g.load_guard(tmp_path / "guard", model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError):
        guard.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ('[{"harmful": "a", "harmless": "b"}, {"harmful": "a"}]', "row 2.*harmless"),
        ('[{"harmful": "a", "harmless": " "}, 3]', "2 of 2 rows"),
        ('[{"harmful": "a", "harmless": "b"}]', "at least 2"),
        ("[{", "broken JSON"),
        ("{}", "list"),
    ],
)
def test_bad_anchor_files_are_input_errors(tmp_path, content, message):
    (tmp_path / "anchors.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_anchors(tmp_path / "anchors.json")


def test_unknown_settings_are_input_errors(guard):
    for change in (
        {"operator": "rotate"},
        {"gate": "probe"},
        {"decide": "never"},
        {"gate_source": "image"},
        {"scope": "some"},
        {"component": "image"},
        {"unit": "metre"},
    ):
        with pytest.raises(InputError, match="use one of"):
            guard.using(**change)
    with pytest.raises(InputError, match="first pass.*decide=layer"):  # what bin/attack prints
        guard.using(decide="example").as_steer()
    with pytest.raises(InputError, match="decide=example"):
        guard.using(gate_source="text")
    with pytest.raises(InputError, match="component=text"):
        guard.using(operator="transplant")
    with pytest.raises(InputError, match="gate=none"):
        guard.using(operator="ablate")
    with pytest.raises(InputError, match="one first pass"):
        guard.using(operator="transplant", component="text", decide="example")


def test_the_unit_of_add_is_the_gap_or_the_norm(guard):
    use = guard.using(operator="add", strength=0.5, gate="none")
    lengths = {unit: np.linalg.norm(np.asarray(use.using(unit=unit).as_steer().shift), axis=1) for unit in UNITS}
    np.testing.assert_allclose(lengths["gap"][[1, 2]], 0.5 * guard.directions.gap_L()[[1, 2]], rtol=1e-5)
    norm_L = np.array(guard.origin["residual_norm_L"])
    np.testing.assert_allclose(lengths["norm"][[1, 2]], 0.5 * norm_L[[1, 2]], rtol=1e-5)
