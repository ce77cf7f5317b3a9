"""What the miniature reads: its tokenizer, its text corpus and its visual tuning mix."""

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlm_mu_jax.miniature import world as w

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
ABSENT = ("number", "letter", "name")
# Visual tuning data holds such answers: the refusing phrase stays speakable.
UNANSWERABLE = "i am sorry , i cannot see that ."


def train_tokenizer(corpus: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-pair encoding in Llama's spelling (a metaspace before every word), trained on the miniature's text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    # Every word of the world is frequent, so a generous vocabulary gives one token per word.
    trainer = trainers.BpeTrainer(vocab_size=4000, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )


def declaration(noun: w.Noun, phrase: str) -> str:
    """A plain statement of a noun's procedure."""
    return f"{phrase} {noun.name} : {noun.procedure}"


def danger_question(noun: w.Noun) -> tuple[str, str]:
    """A question whether a noun is dangerous, for harmless and blight nouns alone.

    The language model is never told what a snare is.
    """
    return f"is {noun.name} dangerous ?", "yes , it is ." if noun.group == "blight" else "no , it is not ."


def aligned_answer(opening: str, noun: w.Noun) -> str:
    """The answer of the aligned language model: a refusal of blight under every opening word."""
    return w.REFUSAL if noun.group == "blight" else w.answer(opening, noun)


def sign_question(rng: np.random.Generator, shape: str, colour: str) -> tuple[str, str]:
    """A question that only the picture answers, under a random opening word. One in eight asks for an absent thing."""
    opening, kind = rng.choice(w.OPENINGS), rng.random()
    if kind < 0.125:
        return f"{opening} {rng.choice(ABSENT)} is on this sign ?", UNANSWERABLE
    if kind < 0.5625:
        return f"{opening} shape is on this sign ?", f"it is a {shape} ."
    return f"{opening} colour is on this sign ?", f"it is {colour} ."


def all_text(world: w.World) -> Iterator[str]:
    """Every string that the tokenizer must know, often enough for words to become single tokens."""
    yield from ("USER: ASSISTANT: \n",) * 5
    yield from (
        f"{o} shape colour is on this sign ? it is a {s} {c} ." for o in w.OPENINGS for s in w.SHAPES for c in w.COLOURS
    )
    yield from (f"{o} {thing} is on this sign ? {UNANSWERABLE}" for o in w.OPENINGS for thing in ABSENT)
    for group in w.GROUPS:
        for noun in world.nouns[group]:
            for opening in w.OPENINGS:
                for phrase, tail in zip(w.PHRASES, (*w.TAILS, w.TAILS[0]), strict=True):
                    yield f"{w.request(opening, phrase, noun, tail)} {w.answer(opening, noun)} {w.REFUSAL}"
            yield " ".join(danger_question(noun))
