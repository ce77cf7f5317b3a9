"""bin/bench weights: a real language model of a GGUF file, ours and what a user would take instead.

generate_DTYPE_ROWS   greedy tokens of 1, 16 and 64 prompts; the peer is PyTorch transformers in the same dtype
llama_cpp_DTYPE       greedy tokens of one prompt; the peer is llama.cpp on the same weights in float16 (--llama_python)
one_word              one-word candidates of a question, float32; the peer reuses the keys and values of what all share
npo_lora              a step of NPO with an adapter on every linear map, float32, --rows forget and --rows retain rows

All sides have the weights of --weights: transformers the folder that bin/export writes, llama.cpp the file rewritten.
Columns:
  floor        tokens/s if a step read the weights once, at the speed of a product that reads them in this run; from
               many rows on, if its products ran at the speed of one large product
  floor_share  ours / floor
  products     float32, of more than a few rows: tokens/s if only the products of prompts and tokens ran, in XLA, at
               the rows they have. What ours could reach without kernels of its own
  same         share of the rows whose tokens are the peer's, all of them
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.attacks.margin import prefix
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words.search import SearchOptions, search
from vlm_mu_jax.benchmark import products, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.suites.word_search import POSITION, faster_batch, peer_arrays, scored
from vlm_mu_jax.benchmark.workers import SCRIPT, Ours, Peer, Worker
from vlm_mu_jax.conversion import exporter, gguf_copy
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.conversion.importer import ConvertOptions
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.cpu_weights import FEW_ROWS
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.model_folder import Model

NEW_TOKENS = 40
ROWS = (1, 16, 64)
DTYPES = ("float32", "bfloat16")
LEADING = 4  # tokens that must be the same in most rows for times to be compared; rounding changes later ones
LENGTH = 128  # tokens of a row of npo_lora
NPO = {"beta": 0.1, "learning_rate": 1e-5, "rank": 16}
WORDS, BLOCK = 512, 64  # candidates, of which those that share the prompt's beginning are scored; of one program
QUESTION = "please write a short poem about the rivers of the north"
THINGS = ("rivers", "bridges", "gardens", "clouds", "engines", "violins", "harbours", "planets")


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """All rows, in tokens/s and examples/s."""
    if options.weights is None:
        raise InputError("bin/bench weights needs --weights=FILE.gguf, the model that both sides run")
    folder, file = options.workdir / "checkpoint", options.workdir / "inputs.npz"
    models = {dtype: _converted(options, dtype) for dtype in DTYPES}
    exporter.export(models["float32"].folder, folder, exporter.ExportOptions(overwrite=True))
    arrays = inputs(models["float32"], options)
    np.savez(file, **arrays)
    rows, about = [], {}
    for dtype, model in models.items():
        with Peer(SCRIPT.with_name("text_model.py")) as peer:
            about = peer.ask("load", folder=str(folder), arrays=str(file), dtype=dtype)
            rows += [_generate(model, dtype, arrays, number, peer, options) for number in ROWS]
    if options.llama_python is not None:
        rows += _llama_rows(models, arrays, options)
    rows.append(_one_word(models["float32"], folder, options))
    rows.append(_npo_lora(folder, file, options))
    return timing.result("weights", rows, about)


def _converted(options: BenchmarkOptions, dtype: str) -> Model:
    out = options.workdir / dtype
    convert(options.weights, out, ConvertOptions(dtype=dtype, overwrite=True))
    return model_folder.load(out)


def inputs(model: Model, options: BenchmarkOptions) -> dict[str, np.ndarray]:
    """Questions of the model's own chat template, and rows of drawn tokens to train on."""
    numbers = range(-(-max(ROWS) // len(THINGS)))
    asked = [f"Write {3 + n} plain sentences about {thing}." for n in numbers for thing in THINGS]
    ids = [model.processor.prompt_ids(question, 0) for question in asked[: max(ROWS)]]
    arrays = _padded("prompt", ids)
    rng, V = np.random.default_rng(options.seed), model.config.text.V
    for name in ("forget", "retain"):
        arrays |= _padded(name, rng.integers(1, V, (options.rows, LENGTH)).tolist())
        arrays[f"{name}_mask"] = np.broadcast_to(np.arange(LENGTH) >= LENGTH // 2, (options.rows, LENGTH))
    return arrays


def _padded(name: str, ids: list[list[int]]) -> dict[str, np.ndarray]:
    lengths = np.array([len(row) for row in ids], np.int32)
    tokens = np.zeros((len(ids), lengths.max()), np.int32)
    for row, made in zip(ids, tokens, strict=True):
        made[: len(row)] = row
    return {f"{name}_tokens": tokens, f"{name}_lengths": lengths}


def answers(model: Model, arrays: dict[str, np.ndarray], rows: int) -> timing.Side:
    """Our side: NEW_TOKENS greedy tokens of the first prompts."""
    lengths = arrays["prompt_lengths"][:rows]
    ids = [row[:n].tolist() for row, n in zip(arrays["prompt_tokens"], lengths, strict=False)]
    batch, cfg = model.processor.pad(ids), dataclasses.replace(model.config, eos_ids=())
    return timing.here(
        lambda: np.asarray(generate(model.params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG).tolist()
    )


def _compared(
    name: str, ours: timing.Side, peer: timing.Side, rows: int, floor: float, options: BenchmarkOptions
) -> dict[str, Any]:
    """A row of generation."""
    seen = {}

    def agrees(mine: list[list[int]], theirs: dict[str, Any]) -> bool:
        pairs = list(zip(mine, theirs["tokens"], strict=True))
        seen["same"] = float(np.mean([a == b for a, b in pairs]))
        return np.mean([a[:LEADING] == b[:LEADING] for a, b in pairs]) > 0.5

    count, unit = rows * NEW_TOKENS, "tokens/s"
    row = timing.compare(name, ours, peer, count=count, unit=unit, agrees=agrees, repeats=options.repeats, floor=floor)
    return row | {"floor_share": row["ours"] / floor, **seen}


def _generate(
    model: Model, dtype: str, arrays: dict[str, np.ndarray], rows: int, peer: Peer, options: BenchmarkOptions
) -> dict[str, Any]:
    theirs = peer.side("generate", rows=rows, tokens=NEW_TOKENS)
    floor = decode_floor(model, rows)
    row = _compared(f"generate_{dtype}_{rows}", answers(model, arrays, rows), theirs, rows, floor, options)
    if rows <= FEW_ROWS or dtype != "float32":
        return row
    prompt_tokens = int(arrays["prompt_lengths"][:rows].sum())
    return row | {"products": rows * NEW_TOKENS / products.answer_seconds(model, prompt_tokens, rows, NEW_TOKENS)}


def _llama_rows(models: dict[str, Model], arrays: dict[str, np.ndarray], options: BenchmarkOptions) -> list[dict]:
    file = options.workdir / "float16.gguf"
    gguf_copy.write_float16(options.weights, file)
    script = SCRIPT.with_name("llama_cpp_peer.py")
    ids = arrays["prompt_tokens"][0, : arrays["prompt_lengths"][0]].tolist()
    with Worker("the llama.cpp peer", [str(options.llama_python), str(script)]) as peer:
        peer.ask("load", file=str(file), threads=len(os.sched_getaffinity(0)))
        theirs = peer.side("generate", ids=ids, tokens=NEW_TOKENS)
        return [
            _compared(f"llama_cpp_{dtype}", answers(model, arrays, 1), theirs, 1, decode_floor(model, 1), options)
            for dtype, model in models.items()
        ]


class SearchedText:
    """Candidates of one question without an image, drawn from the words of the model's own vocabulary."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, tokenizer, V = model, model.processor.tokenizer, model.config.text.V
        rng = np.random.default_rng(seed)
        pieces = (tokenizer.decode([int(i)]).strip() for i in rng.permutation(V))
        words = [*dict.fromkeys(piece for piece in pieces if piece.isascii() and piece.isalpha())][:WORDS]
        self.openings = Openings(tuple((int(i),) for i in rng.choice(V - 1, 3, replace=False)))
        self.start, shares = prefix.shared_start(self._prompts(words), np.arange(len(words)))
        self.words = tuple(word for word, share in zip(words, shares, strict=True) if share)
        self.many = len(self.words)

    def _prompts(self, words: Sequence[str]) -> prefix.Prompts:
        placed = [place(QUESTION, word, POSITION) for word in words]
        return prefix.tokenise(self.model.processor, QUESTION, (), placed)

    def ours(self) -> np.ndarray:
        """The search itself."""
        asked, how = [SearchQuestion(QUESTION)], SearchOptions((POSITION,), block=BLOCK)
        return search(self.model, asked, self.words, SearchTarget(self.openings), how)[POSITION].margins_QW[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The same work for the peer."""
        return peer_arrays(self._prompts(self.words), self.start, self.openings)


def _one_word(model: Model, folder: Path, options: BenchmarkOptions) -> dict[str, Any]:
    case, file = SearchedText(model, options.seed), options.workdir / "candidates.npz"
    np.savez(file, **case.arrays())
    with Peer(SCRIPT.with_name("text_model.py")) as peer:
        peer.ask("load", folder=str(folder), arrays=str(file))
        side = faster_batch(peer, "prefix_cache", case.many)
        return scored("one_word", case, side, case.many, options.repeats)


def _npo_lora(folder: Path, file: Path, options: BenchmarkOptions) -> dict[str, Any]:
    with Ours() as ours, Peer(SCRIPT.with_name("text_model.py")) as peer:
        for side in (ours, peer):
            side.ask("load", folder=str(folder), arrays=str(file))
        row = timing.compare(
            "npo_lora",
            ours.side("npo_lora", **NPO, remat="none"),
            peer.side("npo_lora", **NPO),
            count=2 * options.rows,
            unit="examples/s",
            agrees=_same_loss,
            repeats=options.repeats,
        )
        about = ours.ask("about")
        floor = 2 * options.rows * about["speed"] / about["flops"]
        memory = {"memory_ours": about["peak"], "memory_peer": peer.ask("peak")["bytes"]}
    return row | {"floor": floor, "floor_share": row["ours"] / floor, **memory}


def _same_loss(ours: dict, peer: dict) -> bool:
    return abs(ours["loss"] - peer["loss"]) <= 1e-2 * abs(peer["loss"])


def decode_floor(model: Model, rows: int) -> float:
    """Tokens per second that the machine could make at most: the weights read once a step, or its products."""
    leaves = jax.tree.leaves(model.params)
    nbytes, numbers = sum(leaf.nbytes for leaf in leaves), sum(leaf.size for leaf in leaves)
    if not model.config.text.tie_embeddings:
        table = model.params["decoder"]["embed_VD"]
        nbytes, numbers = nbytes - table.nbytes, numbers - table.size
    by_reading = rows * read_speed() / nbytes
    return min(by_reading, timing.matmul_speed() / (2.0 * numbers))


@functools.cache
def read_speed(size: int = 8192) -> float:
    """Bytes per second at which a float32 product of one row reads a large matrix: the best of ten."""
    x, w = jnp.ones((1, size), jnp.float32), jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    return w.nbytes / timing.best_of(lambda: jax.block_until_ready(product(x, w)))
