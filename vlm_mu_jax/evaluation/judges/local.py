"""A judging model run by our own decoder.

Any Llama-family or LLaVA model folder will do, such as a converted HarmBench classifier or Llama Guard 1 to 3. Where a
rubric asks for one of two words, the verdict is their probability after the prompt, and nothing is generated.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges.rubrics import JudgePrompt, Reply
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.vlm import Batch, forward, logits_of
from vlm_mu_jax.parallel.activations import OnMesh, even_rows
from vlm_mu_jax.storage import model_folder

_LEADS = ("", " ", "\n\n")  # what may stand between the prompt and the answer word


class LocalModel:
    """A model folder as a judge's backend."""

    def __init__(self, folder: str | Path, batch_size: int = 8):
        """Raises InputError when there is no such model folder."""
        self._model = model_folder.load(folder)
        self.name = Path(folder).resolve().name
        self.identity = _identity(self._model.folder)
        self.sees_images = self._model.config.vision is not None
        self._batch_size = even_rows(self._model.params, batch_size)
        self._tokens = 0
        tokenizer = self._model.processor.tokenizer
        self._special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)

    def cost(self) -> dict:
        return {"prompt_tokens": self._tokens}

    def ask(
        self, prompts: Sequence[JudgePrompt], words: tuple[str, str] | None, max_tokens: int
    ) -> Iterator[tuple[int, Reply]]:
        """See `Backend.ask`. With `words` each batch is one forward pass, without them a greedy reply."""
        spelled = spellings(self._model.processor.tokenizer, words) if words else None
        room = self._model.config.text.max_positions - (max(map(len, sum(spelled, ()))) if spelled else max_tokens)
        rows = {}
        for index, prompt in enumerate(prompts):
            ids = self._ids(prompt)
            if len(ids) > room:
                yield index, Reply(error=f"a prompt of {len(ids)} tokens does not fit the judge's {room}")
            else:
                rows[index] = ids
        for chunk in self._chunks(rows, prompts):
            yield from zip(
                chunk,
                self._replies([rows[i] for i in chunk], [prompts[i] for i in chunk], spelled, max_tokens),
                strict=True,
            )

    def _chunks(self, rows: dict[int, list[int]], prompts: Sequence[JudgePrompt]) -> Iterator[list[int]]:
        """Indices in batches of one sort (with or without image), shortest first."""
        for with_image in (False, True):
            some = sorted((i for i in rows if (prompts[i].image is not None) == with_image), key=lambda i: len(rows[i]))
            for start in range(0, len(some), self._batch_size):
                yield some[start : start + self._batch_size]

    def _replies(self, rows: list[list[int]], prompts: list[JudgePrompt], spelled: Any, max_tokens: int) -> list[Reply]:
        """One batch; the rows that fill it up repeat the last one and are dropped."""
        processor, count = self._model.processor, len(rows)
        self._tokens += sum(map(len, rows))
        full = [*range(count)] + [count - 1] * (self._batch_size - count)
        pixels = [[processor.pixels(p.image)] if p.image else [] for p in prompts]
        batch = processor.pad([rows[i] for i in full], [pixels[i] for i in full], length=bucket(max(map(len, rows))))
        if spelled is None:
            out = generate(self._model.params, batch, self._model.config, max_new_tokens=max_tokens)
            tokens, lengths = np.asarray(out.tokens_BG), np.asarray(out.lengths_B)
            return [Reply(text=processor.decode(tokens[i, : lengths[i]])) for i in range(count)]
        logprob_BC = np.asarray(continuations(self._model.params, batch, self._model.config, sum(spelled, ())))
        p_BC = np.exp(logprob_BC.astype(np.float64))
        yes_B, both_B = p_BC[:, : len(spelled[0])].sum(1), p_BC.sum(1)
        return [
            Reply(probability=float(yes_B[i] / both_B[i]) if both_B[i] > 0 else None, mass=float(both_B[i]))
            if both_B[i] > 0
            else Reply(error="the judge gives both answer words no probability at all")
            for i in range(count)
        ]

    def _ids(self, prompt: JudgePrompt) -> list[int]:
        processor = self._model.processor
        if prompt.form == "guard":
            return list(processor.tokenizer(self._conversation(prompt), add_special_tokens=False)["input_ids"])
        # Special tokens that question or answer spell out would let an answer end the prompt and write the verdict.
        text = self._plain(prompt.text)
        if prompt.form == "raw":
            return list(processor.tokenizer(text)["input_ids"])
        return processor.prompt_ids(text, [prompt.image] if prompt.image else [])

    def _conversation(self, prompt: JudgePrompt) -> str:
        """Question and answer in the words of the checkpoint's chat template. Templates take a turn's text as it is, or
        (Llama Guard 3 1B) as a list of parts; the form that holds both texts is the one."""
        from jinja2 import TemplateError

        tokenizer, texts = (
            self._model.processor.tokenizer,
            [self._plain(t).strip() for t in (prompt.question, prompt.answer)],
        )
        for in_parts in (False, True) if getattr(tokenizer, "chat_template", None) else ():
            contents = [[{"type": "text", "text": text}] if in_parts else text for text in texts]
            turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), contents, strict=True)]
            try:
                made = tokenizer.apply_chat_template(turns, tokenize=False)
            except (TemplateError, TypeError):
                continue
            if all(text in made for text in texts) and "'type':" not in made:
                return made
        raise InputError(
            f"--judge_checkpoint: {self.name} has no chat template for a question and its answer, where Llama Guard"
            " keeps its prompt; convert it from a folder with chat_template.jinja, or choose another judge"
        )

    def _plain(self, text: str) -> str:
        """Text without anything the tokenizer would take for a special token."""
        before = None
        while before != text:  # removing one may join the halves of another
            before = text
            for token in self._special:
                text = text.replace(token, "")
        return text


def spellings(tokenizer: Any, words: tuple[str, str]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Token ids of all spellings of each word: with a small or capital first letter, bare, after a space, after a line.

    No spelling is the beginning of another, so that their probabilities add up.

    Raises:
      InputError: the tokenizer cannot tell the two words apart.
    """
    found: list[list[tuple[int, ...]]] = []
    for word in words:
        texts = [lead + form for lead in _LEADS for form in (word, word.capitalize())]
        ids = dict.fromkeys(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        # A tokenizer may lack a letter; what does not read as the word again is left out.
        found.append([one for one in ids if one and tokenizer.decode(one).strip().lower() == word])
    everything = [one for group in found for one in group]
    kept = [
        [one for one in group if not any(other != one and one[: len(other)] == other for other in everything)]
        for group in found
    ]
    if not all(kept) or set(kept[0]) & set(kept[1]):
        raise InputError(f"--judge_checkpoint: its tokenizer cannot tell {words[0]!r} from {words[1]!r}; use another")
    return tuple(map(tuple, kept))


@OnMesh
@functools.partial(jax.jit, static_argnames=("cfg", "texts"))
def continuations(params: Params, batch: Batch, cfg: ModelConfig, texts: tuple[tuple[int, ...], ...]) -> Array:
    """log P(text | prompt) of C short texts after each of B prompts, float32 [B, C]; the prompts run once."""
    rows = jnp.arange(batch.tokens_BT.shape[0])
    first = forward(params, batch, cfg, keep_cache=True, logits=False)
    start_BV = jax.nn.log_softmax(logits_of(params, first.hidden_BTD[rows, batch.lengths_B - 1], cfg))
    found = []
    for ids in texts:
        logprob_B = start_BV[:, ids[0]]
        if len(ids) > 1:
            tokens_BG = jnp.broadcast_to(jnp.asarray(ids[:-1], jnp.int32), (len(rows), len(ids) - 1))
            more = Batch(tokens_BG, jnp.full((len(rows),), len(ids) - 1, jnp.int32))
            out = forward(params, more, cfg, past=(first.cache,), offset_B=jnp.asarray(batch.lengths_B))
            next_BGV = jax.nn.log_softmax(out.logits_BTV)
            logprob_B += next_BGV[:, np.arange(len(ids) - 1), np.asarray(ids[1:])].sum(1)
        found.append(logprob_B)
    return jnp.stack(found, axis=1)


def _identity(folder: Path) -> str:
    """Changes with the weights: the folder's own facts, and names, sizes and times of its parameter files."""
    digest = hashlib.sha256()
    for name in ("config.json", "provenance.json", model_folder.SETTINGS):
        digest.update((folder / name).read_bytes() if (folder / name).exists() else b"-")
    for path in sorted(p for p in (folder / model_folder.PARAMS).rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return f"local/{digest.hexdigest()}"
