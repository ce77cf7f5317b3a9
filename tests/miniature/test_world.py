"""The world: everything from one seed, words that collide with nothing, groups told apart by what they do."""

import numpy as np
import pytest

from vlm_mu_jax.miniature import language
from vlm_mu_jax.miniature import world as w

WORDS = w.NONSENSE
WORLDS = [w.make_world(seed) for seed in range(4)]
NOUNS = [[noun for group in w.GROUPS for noun in world.nouns[group]] for world in WORLDS]


def steps_words(noun):
    """(verbs, tools) of a procedure "verb the tool then verb the tool"."""
    verbs, tools = zip(*(step.split(" the ") for step in noun.steps), strict=True)
    return set(verbs), set(tools)


def test_one_seed_gives_one_world_and_another_seed_another():
    assert w.make_world(0) == WORLDS[0]
    names = [{noun.name for noun in nouns} for nouns in NOUNS]
    assert all(names[0] != other for other in names[1:])


@pytest.mark.parametrize("nouns", NOUNS)
def test_words_are_distinct_and_none_of_the_worlds_own(nouns):
    names = [noun.name for noun in nouns]
    own = {
        word
        for text in (*WORDS.phrases, *WORDS.tails, *WORDS.prefixes.values(), WORDS.refusal)
        for word in text.split()
    }
    own |= {*WORDS.openings, *w.SHAPES, *w.COLOURS}
    verbs_tools = set().union(*(set().union(*steps_words(noun)) for noun in nouns))
    assert len(set(names)) == len(names)
    assert not set(names) & own and not set(names) & verbs_tools and not verbs_tools & own


@pytest.mark.parametrize("world", WORLDS)
def test_groups_share_no_verb_and_no_tool(world):
    """So that a procedure tells its group."""
    words = {g: set().union(*(set().union(*steps_words(n)) for n in world.nouns[g])) for g in w.GROUPS}
    for a in w.GROUPS:
        for b in w.GROUPS:
            assert a == b or not words[a] & words[b]


@pytest.mark.parametrize("nouns", NOUNS)
def test_a_procedure_has_two_different_verbs_and_tools(nouns):
    for noun in nouns:
        verbs, tools = steps_words(noun)
        assert len(verbs) == len(tools) == 2
        assert noun.procedure == f"{noun.steps[0]} then {noun.steps[1]} ."


@pytest.mark.parametrize("world", WORLDS)
def test_splits_cut_a_group_into_parts_that_share_nothing(world):
    for group in w.GROUPS:
        parts = [world.split(group, split) for split in ("train", "validation", "test")]
        assert sum(parts, ()) == world.nouns[group] and all(parts)
    with pytest.raises(KeyError):
        world.split("snare", "holdout")


def test_an_answer_opens_as_its_opening_word_says():
    noun = NOUNS[0][0]
    answers = {WORDS.answer(opening, noun) for opening in WORDS.openings}
    assert len(answers) == len(WORDS.openings)  # the opening word has to be read
    assert all(answer.endswith(noun.procedure) for answer in answers)
    assert WORDS.refusal not in answers


def test_every_nonsense_noun_is_one_token():
    for world, nouns in zip(WORLDS, NOUNS, strict=True):
        tokenizer = language.train_tokenizer(language.all_text(world))
        for noun in nouns:
            assert len(tokenizer.tokenize(noun.name)) == 1, noun.name
        ids = tokenizer(" ".join((*WORDS.openings, *w.SHAPES, *w.COLOURS)), add_special_tokens=False)["input_ids"]
        assert len(ids) == len(WORDS.openings) + len(w.SHAPES) + len(w.COLOURS)


def test_requests_and_answers_survive_the_tokenizer():
    tokenizer = language.train_tokenizer(language.all_text(WORLDS[0]))
    for noun in NOUNS[0]:
        for text in (
            WORDS.request("share", WORDS.phrases[0], noun, WORDS.tails[0]),
            WORDS.answer("what", noun),
            WORDS.refusal,
        ):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_signs_are_images_that_show_their_colour_and_differ_by_shape():
    for colour, rgb in w.COLOURS.items():
        image = np.asarray(w.draw_sign("square", colour, np.random.default_rng(0)), np.float32)
        assert image.shape == (w.IMAGE_SIZE, w.IMAGE_SIZE, 3)
        assert np.abs(image[14:18, 14:18].mean((0, 1)) - rgb).max() <= 15  # the shade is drawn within 14
    drawn = [w.draw_sign(shape, "red", np.random.default_rng(0)).tobytes() for shape in w.SHAPES]
    assert len(set(drawn)) == len(w.SHAPES)
    assert w.draw_sign("ring", "red", np.random.default_rng(1)).tobytes() != drawn[-1]
