"""bin/bench attack: one-word candidates scored per second, ours and three other ways, on one prompt with an image.

full_prompts      PyTorch transformers on batches of whole prompts
prefix_cache      PyTorch transformers with the prefix's keys and values reused, expanded for every batch
own_full_forward  our model on blocks of whole prompts
block_memory      how many more candidates of a block fit into a GiB, as XLA plans it, and how many would if each had a
                  copy of the prefix cache; kib_* are the bytes behind it, per candidate

Ours scores all candidates (column words). A peer that is much slower scores as many as column peer_words says, and its
rate is per candidate. All sides start from token ids and encode the image in their own time.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlm_mu_jax import progress
from vlm_mu_jax.attacks.margin import margin, prefix
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.scoring import CACHE_STEP
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words.search import SearchOptions, search
from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.workers import SCRIPT, Peer
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import JobError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.storage.model_folder import Model

POSITION = "question_start"
QUESTION_WORDS = 14  # one token each; with the template's end and the word's pieces, about 20 run per candidate
BLOCK, BLOCKS = 64, (64, 1024)
PEER_BATCHES = (16, 64)  # the faster one counts
# (candidates, candidates for a peer that runs whole prompts)
WORDS = {"tiny": (24, 8), "small": (500, 64), "mid": (2000, 64), "7b": (2000, 32)}
MARGIN_ERROR = 2e-3  # nats between the sides, in float32


class DrawnWords(Processor):
    """Stands in for a tokenizer, which a random checkpoint has not: a word is one to three drawn tokens."""

    def __init__(self, cfg: ModelConfig, seed: int) -> None:
        self.cfg, self._seed = cfg, seed
        self._before, self._after = self._draw("before", 4), self._draw("after", 5)

    def _draw(self, word: str, count: int) -> tuple[int, ...]:
        rng = np.random.default_rng([self._seed, *word.encode()])
        return tuple(rng.integers(1, self.cfg.text.V - 1, count).tolist())

    def _word(self, word: str) -> tuple[int, ...]:
        pieces = (1, 1, 1, 1, 1, 1, 2, 2, 2, 3)  # most words of a vocabulary are one token
        return self._draw(word, pieces[int(word[1:]) % 10] if word.startswith("w") else 1)

    def short_ids(self, prompts: Sequence[tuple[str, str]], images: Any, context: None = None) -> list[tuple[int, ...]]:
        image = (self.cfg.image_token_id,) * (images if isinstance(images, int) else len(images))
        middle = [sum((self._word(word) for word in question.split()), ()) for question, _ in prompts]
        return [(*self._before, *image, *text, *self._after) for text in middle]

    def prompt_ids(self, question: str, images: Any = 1, context: None = None) -> list[int]:
        return list(self.lengthened(self.short_ids([(question, "")], images)[0], images))


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """The four rows, in candidates/s."""
    folder, file = options.workdir / "checkpoint", options.workdir / "candidates.npz"
    text, vision = random_models.SIZES[options.size]
    with Peer(SCRIPT.with_name("attack_scoring.py")) as peer:
        peer.ask("make", folder=str(folder), text=text, vision=vision, seed=options.seed, family=options.family)
        params, cfg = random_models.load(folder)
        model = Model(params, cfg, DrawnWords(cfg, options.seed), folder)
        case = ScoredQuestion(model, WORDS[options.size], options.seed, random_models.picture_side(options.size))
        np.savez(file, **case.arrays())
        about = peer.ask("load", folder=str(folder), arrays=str(file))
        rows = [
            scored("full_prompts", case, faster_batch(peer, "full_prompts", case.few), case.few, options.repeats),
            scored("prefix_cache", case, faster_batch(peer, "prefix_cache", case.many), case.many, options.repeats),
            scored("own_full_forward", case, timing.here(case.whole_prompts), case.few, options.repeats),
            case.memory(),
        ]
    return timing.result("attack", rows, about)


class ScoredQuestion:
    """One question with an image, its candidates, and our ways to score them."""

    def __init__(self, model: Model, words: tuple[int, int], seed: int, side: int) -> None:
        self.model, (self.many, self.few) = model, words
        self.words = tuple(f"w{i}" for i in range(self.many))
        rng = np.random.default_rng(seed)
        self.pixels = rng.standard_normal((side, side, 3)).astype(np.float32)
        self.picture = random_models.picture(self.pixels, model.config)
        self.question = " ".join(f"q{i}" for i in range(QUESTION_WORDS))
        self.openings = Openings(tuple((int(i),) for i in rng.choice(model.config.text.V - 1, 3, replace=False)))
        placed = [place(self.question, word, POSITION) for word in self.words]
        self.prompts = prefix.tokenise(model.processor, self.question, (self.picture,), placed)
        self.start, _ = prefix.shared_start(self.prompts, np.arange(self.many))

    def ours(self) -> np.ndarray:
        """The search itself."""
        ask = SearchQuestion(self.question, self.picture)
        found = search(
            self.model, [ask], self.words, SearchTarget(self.openings), SearchOptions((POSITION,), block=BLOCK)
        )
        return found[POSITION].margins_QW[0]

    def whole_prompts(self) -> np.ndarray:
        """The first candidates as whole prompts, in the blocks a search would run them in."""
        params, cfg = self.model.params, self.model.config
        features = prefix.image_features(params, (self.picture,), cfg)
        found = np.zeros(self.few, np.float32)
        for block in prefix.blocks(self.prompts, np.arange(self.few), None, 4 * BLOCK):
            rows = margin.CandidateRows(None, 0, block.tokens_CT, block.lengths_C, features)
            margins_C, _ = margin.score(params, rows, cfg=cfg, nodes=self.openings.nodes)
            real = block.index_C >= 0
            found[block.index_C[real]] = np.asarray(margins_C)[real]
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """The same work for the peer."""
        return peer_arrays(self.prompts, self.start, self.openings) | {"pixels": self.pixels[None, None]}

    def memory(self) -> dict[str, Any]:
        """How a block's memory grows from BLOCKS[0] to BLOCKS[1] candidates, beyond parameters and prefix cache."""
        small, large = (self._planned_bytes(size) for size in BLOCKS)
        cfg, grown = self.model.config.text, (large - small) / (BLOCKS[1] - BLOCKS[0])
        copied = 2 * cfg.L * cfg.K * cfg.H * self.start * 4
        kib = {"grown": grown, "own_activations": self._activations(), "prefix_copy": copied}
        return timing.row(
            "block_memory",
            2**30 / grown,
            2**30 / copied,
            "candidates/GiB",
            **{f"memory_block_{size}": planned for size, planned in zip(BLOCKS, (small, large), strict=True)},
            **{f"kib_{name}": round(value / 1024) for name, value in kib.items()},
        )

    def _activations(self) -> float:
        """Bytes of one candidate's own states that are alive at once in a block's widest place: residual stream and
        norm, the feed-forward's two products and their product; and its logits, twice."""
        cfg = self.model.config.text
        tokens = next(prefix.blocks(self.prompts, np.arange(self.many), self.start, BLOCK)).tokens_CT.shape[1]
        return 4.0 * (tokens * (2 * cfg.D + 3 * cfg.F) + 2 * cfg.V)

    def _planned_bytes(self, size: int) -> int:
        cfg = self.model.config
        block = next(prefix.blocks(self.prompts, np.arange(self.many), self.start, size))
        ids = self.prompts.original_ids
        batch = self.model.processor.pad([ids], length=-(-len(ids) // CACHE_STEP) * CACHE_STEP)
        features = jax.eval_shape(lambda p: prefix.image_features(p, (self.picture,), cfg), self.model.params)
        kv = jax.eval_shape(
            lambda p, f: prefix.run_prefix(p, batch.tokens_BT, batch.lengths_B, f, cfg=cfg), self.model.params, features
        ).kv
        rows = margin.CandidateRows(kv, self.start, block.tokens_CT, block.lengths_C)
        planned = margin.score.lower(self.model.params, rows, cfg=cfg, nodes=self.openings.nodes).compile()
        return planned.memory_analysis().temp_size_in_bytes


def peer_arrays(prompts: prefix.Prompts, start: int, openings: Openings) -> dict[str, np.ndarray]:
    """What the peer scores: ids that all candidates start with, the rest of each, and the refusals' first tokens."""
    skip = start - len(prompts.head)
    lengths = np.array([len(tail) - skip for tail in prompts.tails])
    tails = np.zeros((len(lengths), lengths.max()), np.int32)
    for row, tail in zip(tails, prompts.tails, strict=True):
        row[: len(tail) - skip] = tail[skip:]
    return {
        "prefix": np.array(prompts.original_ids[:start]),
        "tails": tails,
        "tail_lengths": lengths,
        "refusal": np.array([opening[0] for opening in openings.refusal]),
    }


def faster_batch(peer: Peer, job: str, words: int) -> timing.Side:
    """The peer's faster batch size, found on a few words."""
    few = min(words, 128)
    seconds = {}
    for batch in PEER_BATCHES:
        peer.ask(job, words=few, batch=batch)
        seconds[batch] = peer.ask(job, words=few, batch=batch)["seconds"]
    best = min(seconds, key=seconds.get)

    def side() -> tuple[np.ndarray, float]:
        answer = peer.ask(job, words=words, batch=best)
        return np.array(answer["margins"]), answer["seconds"]

    return side


def scored(name: str, case: Any, peer: timing.Side, words: int, repeats: int) -> dict[str, Any]:
    """Warms up, checks that both sides give the same margins, times them in turn.

    case: has `ours()`, the margins of all its candidates, and `many`, their number. words: those that the peer scores.
    """
    error = float(np.abs(case.ours()[:words] - peer()[0]).max())
    if not error <= MARGIN_ERROR:
        raise JobError(f"{name}: the margins of ours and the peer differ by {error:.2g} nats; no times are compared")
    mine, theirs = [], []
    for _ in progress.bar(range(repeats), name):
        start = time.perf_counter()
        case.ours()
        mine.append(time.perf_counter() - start)
        theirs.append(peer()[1])
    ours, other = case.many / statistics.median(mine), words / statistics.median(theirs)
    more = {"words": case.many, "peer_words": words, "max_difference": error}
    return timing.row(name, ours, other, "candidates/s", **more)
