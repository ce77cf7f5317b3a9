"""Tokenizer files of a GGUF file, as a Hugging Face folder has them.

A GGUF file holds the vocabulary, the merges or scores, the special tokens and the chat template. How text is cut into
words before it is tokenised is only named there (`tokenizer.ggml.pre`); the expressions stand in ggml-org/llama.cpp
src/llama-vocab.cpp and are those of the original tokenizers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.conversion.gguf_file import GgufFile
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import write_json

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# tokenizer.ggml.pre -> the expression that cuts text into words; None: GPT-2's, "digits": GPT-2's after single digits
_WORDS = {
    "default": None,
    "gpt-2": None,
    "smollm": "digits",
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
_COMPOSED = ("qwen2",)  # those whose text is put into Unicode's normal form C first; llama.cpp leaves it as it is
# Tokens that end an answer in llama.cpp (src/llama-vocab.cpp) though the metadata names none of them, as it often does
_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write_tokenizer(file: GgufFile, out: Path) -> dict[str, Any]:
    """Writes tokenizer files, the chat template and generation_config.json to a folder.

    Returns:
      The special tokens' ids, as config.json has them.

    Raises:
      InputError: the file has no tokenizer, or one of a kind that is not supported.
    """
    from transformers import PreTrainedTokenizerFast  # heavy import

    tokens = _texts(file, "tokenizer.ggml.tokens")
    kind = file.get("tokenizer.ggml.model", str)
    if kind not in _BUILDERS:
        raise InputError(f"{file.path}: tokenizer kind {kind!r} is not supported; only {', '.join(_BUILDERS)}")
    ids = {name: _id(file, key, len(tokens)) for name, key in _SPECIAL.items()}
    named = {name: tokens[at] for name, at in ids.items() if at is not None}
    tokenizer = _BUILDERS[kind](file, tokens, named.get("unk_token"))
    _add_special(tokenizer, file, tokens)
    if file.get("tokenizer.ggml.add_bos_token", bool, kind == "llama") and ids["bos_token"] is not None:
        _add_bos(tokenizer, named["bos_token"], ids["bos_token"])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        whole.chat_template = template
    whole.save_pretrained(str(out))
    return _write_generation(file, out, ids, tokens)


def _write_generation(file: GgufFile, out: Path, ids: dict[str, int | None], tokens: Sequence[str]) -> dict[str, Any]:
    """llama.cpp ends an answer at the end of a turn too, which need not be the end token."""
    said = [_id(file, key, len(tokens)) for key in ("eot_token_id", "eom_token_id")]
    ends = dict.fromkeys([ids["eos_token"], *said, *(tokens.index(name) for name in _ENDS if name in tokens)])
    stops = [one for one in ends if one is not None]
    special = {
        "bos_token_id": ids["bos_token"],
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": ids["pad_token"],
    }
    write_json(out / "generation_config.json", {name: one for name, one in special.items() if one is not None})
    return special


def _texts(file: GgufFile, key: str) -> list[str]:
    found = file.get(key, list)
    if not found or not all(isinstance(text, str) for text in found):
        raise InputError(f"{file.path}: metadata {key} is no list of texts; use another file")
    return found


def _id(file: GgufFile, key: str, size: int) -> int | None:
    found = file.metadata.get(f"tokenizer.ggml.{key}")
    if found is not None and (not isinstance(found, int) or not 0 <= found < size):
        raise InputError(f"{file.path}: tokenizer.ggml.{key} is {found!r}, which is none of its {size} tokens")
    return found


def _vocabulary(file: GgufFile, tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: at for at, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise InputError(f"{file.path}: {len(tokens) - len(vocabulary)} tokens occur twice; use another file")
    return vocabulary


def _byte_level(file: GgufFile, tokens: Sequence[str], unknown: str | None) -> Any:
    """GPT-2's kind: byte-level pairs (Llama 3, SmolLM, Qwen)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = file.get("tokenizer.ggml.pre", str, "default")
    if name not in _WORDS:
        raise InputError(f"{file.path}: how {name!r} cuts text into words is not known; only {', '.join(_WORDS)}")
    merges = [tuple(pair.split(" ", 1)) for pair in _texts(file, "tokenizer.ggml.merges")]
    words = _WORDS[name]
    vocabulary = _vocabulary(file, tokens)
    try:
        pairs = models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=words == _LLAMA3)
    except Exception as error:  # the Rust library raises a bare Exception
        raise InputError(f"{file.path}: merges that do not fit the vocabulary ({error}); use another file") from error
    tokenizer = Tokenizer(pairs)
    if name in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words in (None, "digits"))
    before = {None: [], "digits": [pre_tokenizers.Digits(individual_digits=True)]}
    first = before[words] if words in before else [pre_tokenizers.Split(Regex(words), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile, tokens: Sequence[str], unknown: str | None) -> Any:
    """Llama 1 and 2's and Gemma's kind: pairs of characters by score, with bytes for what is not in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.get("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens):
        raise InputError(f"{file.path}: {len(scores)} scores for {len(tokens)} tokens; use another file")
    vocabulary = _vocabulary(file, tokens)
    merges = merges_by_score(vocabulary, scores)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaced = file.get("tokenizer.ggml.add_space_prefix", bool, True)
    space = [normalizers.Prepend("\u2581")] if spaced else []
    tokenizer.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if spaced else []
    spaces = decoders.Replace("\u2581", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer


def merges_by_score(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece vocabulary implies: every pair of tokens that makes a token, best score first."""
    found = []
    for token, at in vocabulary.items():
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        found += [(-scores[at], vocabulary[left], vocabulary[right], left, right) for left, right in pairs]
    return [(left, right) for *_, left, right in sorted(found)]


def _add_special(tokenizer: Any, file: GgufFile, tokens: Sequence[str]) -> None:
    """Tokens that stand for themselves in a text: control tokens, and those that the model's maker added."""
    from tokenizers import AddedToken

    kinds = file.get("tokenizer.ggml.token_type", list, [])
    control = [token for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL]
    added = [token for token, kind in zip(tokens, kinds, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])


def _add_bos(tokenizer: Any, text: str, number: int) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[text, "$A"], pair=[text, "$A", text, "$B"], special_tokens=[(text, number)]
    )


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece}
