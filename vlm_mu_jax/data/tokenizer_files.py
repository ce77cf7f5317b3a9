"""The tokenizer files of a folder: read as transformers does, and compared with the model beside them."""

from collections import Counter
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model.config import ModelConfig

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer, which transformers chooses by the files and by config.json.

    Raises:
      InputError: a tokenizer file or config.json is not usable; the message names which of the two.
    """
    from transformers import AutoConfig, AutoTokenizer  # heavy import

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # damaged files raise anything, the Rust parser even a bare Exception
        problem = f"{folder}: no usable tokenizer ({_one_line(error)}); copy the model's tokenizer files there"
        try:
            AutoConfig.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError):  # of no kind that transformers knows; tokenizers do without
            pass
        except Exception as other:
            problem = f"{folder / 'config.json'}: {_one_line(other)}; restore the file"
        raise InputError(problem) from error


def check_tokenizer(folder: Path, cfg: ModelConfig) -> list[str]:
    """Compares tokenizer.json with the model; a folder without that file passes.

    A file whose texts or merges were changed is still a tokenizer, though of another model. Nothing in a checkpoint
    tells it apart.

    Returns:
      What may be wrong, one sentence each: added tokens without an embedding, or with another id than the file says.

    Raises:
      InputError: it is no tokenizer, two of its tokens have one id, the model lacks an embedding for one of its
        vocabulary, or it lacks the first, the end or the image token.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    all_ids, own_ids = _ids(path)
    added = [(one["content"], one["id"]) for one in read_json(path).get("added_tokens", [])]
    moved = [(text, said) for text, said in added if all_ids[text] != said]
    doubled = [one for one, count in Counter(all_ids.values()).items() if count > 1]
    if doubled:
        texts = [text for text, one in all_ids.items() if one == doubled[0]]
        raise InputError(f"{path}: {texts[0]!r} and {texts[1]!r} have one id, {doubled[0]}; restore the file")
    have = {*range(cfg.text.V), cfg.image_token_id}
    beyond = [text for text, one in all_ids.items() if one not in have]
    for text in beyond:
        if text in own_ids:
            what = f"its token {text!r} is number {own_ids[text]}, and the model has {cfg.text.V}"
            raise InputError(f"{path}: {what}; restore the file, or convert the model that it belongs to")
    _check_named(folder, cfg, all_ids)
    warnings = [f"{FILE}: {text!r} is token {all_ids[text]}, not {said} as the file says" for text, said in moved]
    if beyond:
        what = f"{len(beyond)} added tokens have no embedding, such as {beyond[0]!r}; texts must not hold them"
        warnings.append(f"{FILE}: {what}")
    return warnings


def _ids(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """(text -> id of all tokens, of the vocabulary without added tokens)."""
    from tokenizers import Tokenizer

    read_json(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust parser raises a bare Exception
        raise InputError(f"{path}: no usable tokenizer ({_one_line(error)}); restore the file") from error
    return tokenizer.get_vocab(with_added_tokens=True), tokenizer.get_vocab(with_added_tokens=False)


def _check_named(folder: Path, cfg: ModelConfig, ids: dict[str, int]) -> None:
    """Tokens that prompts are made of: transformers would add those that are missing behind the vocabulary."""
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    more = settings.get("added_tokens_decoder")
    more = more if isinstance(more, dict) else {}
    texts = {*ids, *(one.get("content") for one in more.values() if isinstance(one, dict))}
    if (folder / "added_tokens.json").is_file():
        texts |= set(read_json(folder / "added_tokens.json"))
    for name in ("bos_token", "eos_token"):
        text = _text(settings.get(name))
        if text is not None and text not in texts:
            raise InputError(f"{folder / SETTINGS}: {name} {text!r} is no token of {FILE}; restore the files")
    image = cfg.image_token_id
    if image is not None and image not in ids.values() and str(image) not in more and len(texts) == len(ids):
        raise InputError(f"{folder / FILE}: has no token {image}, which stands for images; restore the file")


def _text(token: Any) -> str | None:
    """A special token as transformers writes it: a text, or a dict with one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
