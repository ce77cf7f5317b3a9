"""What the miniature reads: its tokenizer, and the text that it is made from."""

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlm_mu_jax.miniature import world as w

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")


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


def all_text(world: w.World) -> Iterator[str]:
    """Every string that the tokenizer must know, often enough for words to become single tokens."""
    words = world.speech
    yield from ("USER: ASSISTANT: \n",) * 5
    yield from (
        f"{o} shape colour is on this sign ? it is a {s} {c} ."
        for o in words.openings
        for s in w.SHAPES
        for c in w.COLOURS
    )
    yield from (f"{o} {thing} is on this sign ? {words.unanswerable}" for o in words.openings for thing in words.absent)
    for group in w.GROUPS:
        for noun in world.nouns[group]:
            for opening in words.openings:
                for phrase, tail in zip(words.phrases, (*words.tails, words.tails[0]), strict=True):
                    request, answer = words.request(opening, phrase, noun, tail), words.answer(opening, noun)
                    yield f"{request} {answer} {words.refusal}"
            yield " ".join(words.danger_question(noun))
