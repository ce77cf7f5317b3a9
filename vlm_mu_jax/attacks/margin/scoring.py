"""Scores all candidates of one question: tokenises them, runs them in blocks on its prefix cache, keeps the best.

What it costs is counted by formula (`model.flops`): forward passes without the padding that fixed shapes add.
"""

import dataclasses
import functools
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vlm_mu_jax.attacks.margin import margin, prefix
from vlm_mu_jax.attacks.margin.guards import FirstPass, by_gates, depends_on_gates
from vlm_mu_jax.attacks.margin.openings import Node
from vlm_mu_jax.attacks.margin.prefix import Block, Prompts
from vlm_mu_jax.attacks.margin.search_run import SearchTarget, WordScores
from vlm_mu_jax.data.placing import Placed, place
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.data.tiling import Tiles
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import flops
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.cpu_weights import for_cpu
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel import mesh as mesh_lib
from vlm_mu_jax.parallel import rules

CACHE_STEP = 64  # lengths of prefix caches are multiples of it: few programs


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """What is the same for all questions of a search.

    `words` and the rest are those of `words.search.search`. A search for images has none of them.
    """

    cfg: ModelConfig
    processor: Processor
    target: SearchTarget
    words: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    mode: str = "insert"
    top: int = 1
    block: int = 64

    @functools.cached_property
    def nodes(self) -> tuple[Node, ...]:
        return self.target.nodes

    @property
    def sign(self) -> float:
        return self.target.sign

    @property
    def steer(self) -> Steer | FirstPass | None:
        return self.target.steer

    @property
    def lora(self) -> Mapping[str, Any] | None:
        return self.target.lora


class Place:
    """Where a question is scored: one device, or a mesh.

    A mesh spreads the candidates of a block over its batch axes; `rows` is their size.
    """

    def __init__(self, params: Params, task: SearchTask, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.rows = 1 if mesh is None else mesh_lib.batch_shards(mesh)
        self.params = for_cpu(params) if mesh is None else rules.place(params, param_specs(task.cfg), mesh)
        self.lora = self.put(task.lora)

    def put(self, tree: Any) -> Any:
        """A copy for all devices."""
        return tree if self.mesh is None else jax.device_put(tree, mesh_lib.replicated(self.mesh))

    def spread(self, x: np.ndarray, axis: int = 0) -> Any:
        """Candidates along `axis`, a part for each device."""
        return x if self.mesh is None else jax.device_put(x, mesh_lib.batch_sharding(self.mesh, axis))


def places(params: Params, task: SearchTask, meshes: Sequence[Mesh]) -> list[Place]:
    """One place for every mesh. Without a mesh there is one place: the devices that hold the parameters."""
    return [Place(params, task, mesh) for mesh in (meshes or (None,))]


class Shared:
    """What runs once for a question in its place: the images' tokens, and the prefix caches.

    Args:
      images: all images of the prompt, as `Processor.pixels` makes them.
      context: the conversation around the question, or None.
      kept: how many of the latest caches stay, for a question that is searched again and again. 0: a cache lives as
        long as its use.

    Its attribute `flops` is what was spent here so far.
    """

    def __init__(
        self,
        task: SearchTask,
        where: Place,
        images: Sequence[np.ndarray | Tiles],
        context: Context | None = None,
        kept: int = 0,
    ) -> None:
        self._task, self._where, self._kept = task, where, kept
        self._caches: OrderedDict[tuple, prefix.Prefix] = OrderedDict()
        self.images, self.context = tuple(images), context
        self.features = prefix.image_features(where.params, self.images, task.cfg, where.put)
        self.flops = sum(image_flops(task.cfg, _encoded_images(image)) for image in self.images)

    def prefix(self, prompts: Prompts, steer: Steer | None) -> prefix.Prefix:
        """The cache of the unchanged prompt under these gates."""
        ids, put = prompts.original_ids, self._where.put
        gates = None if steer is None else ("?" if steer.gate_LB is None else np.asarray(steer.gate_LB).tobytes())
        key = (ids, gates)
        if key in self._caches:
            self._caches.move_to_end(key)
            return self._caches[key]
        self.flops += candidate_flops(self._task.cfg.text, 0, np.array([len(ids)]), ())
        batch = put(self._task.processor.pad([ids], length=-(-len(ids) // CACHE_STEP) * CACHE_STEP))
        made = prefix.run_prefix(
            self._where.params,
            batch.tokens_BT,
            batch.lengths_B,
            self.features if prompts.image_end else None,
            cfg=self._task.cfg,
            steer=put(steer),
            lora=self._where.lora,
        )
        if self._kept:
            self._caches[key] = made
            while len(self._caches) > self._kept:
                self._caches.popitem(last=False)
        return made


@flax.struct.dataclass
class Best:
    """The k best candidates so far, kept on the device while blocks of scores come in.

    Along the last axis, best first: goal scores (higher is better) and candidate numbers, -1 where there is none.
    """

    score: Array
    index: Array


def none_yet(k: int) -> Best:
    return Best(jnp.full((k,), -jnp.inf), jnp.full((k,), -1, jnp.int32))


@jax.jit
def keep_best(best: Best, margins_C: Array, number_C: Array, sign: float) -> Best:
    """Merges a block; earlier candidates win ties. Numbers below 0 are rows that only fill the block."""
    score_C = jnp.where(number_C >= 0, sign * margins_C, -jnp.inf)
    scores = jnp.concatenate([best.score, score_C])
    numbers = jnp.concatenate([best.index, jnp.where(number_C >= 0, number_C, -1)])
    top, at = jax.lax.top_k(scores, best.score.shape[0])
    return Best(top, numbers[at])


class QuestionSearch:
    """One question's candidates. Number 0 is the unchanged prompt; number 1 + p * W + w is word w at position p.

    shared: what an earlier search of the same question and image has run already.
    """

    def __init__(self, task: SearchTask, where: Place, question: str, shared: Shared) -> None:
        self._task, self._where, self._shared = task, where, shared
        placed = [place(question, word, position, task.mode) for position in task.positions for word in task.words]
        self._placed, self._question = [Placed(question), *placed], question
        self._prompts = self._tokenise(self._placed, shared.images, shared.context)
        self._flops = 0.0
        self._best = [none_yet(task.top) for _ in task.positions]
        self._done: list[tuple[np.ndarray, Array]] = []
        self._in_full = np.zeros(len(task.positions), int)
        self._running: deque[Array] = deque()

    def _tokenise(self, placed: list[Placed], images: Images, context: Context | None) -> Prompts:
        text = self._task.cfg.text
        found = prefix.tokenise(self._task.processor, self._question, images, placed, context)
        longest = int(found.lengths().max()) + max(len(node.prefix) for node in self._task.nodes)
        if longest > text.max_positions:
            raise InputError(
                f"question {self._question[:40]!r}: its longest prompt has {longest} tokens with a refusal opening, the"
                f" model {text.max_positions} positions; leave the question out"
            )
        return found

    def steps(self) -> Iterator[int]:
        """Does the work, a block at a time; yields how many candidates each step has finished.

        A guard with a first pass finishes every candidate once more for every text that it reads.
        """
        steer, everyone = self._task.steer, np.arange(len(self._placed))
        if isinstance(steer, FirstPass):
            steer = yield from self._first_pass(steer)
            gate_LN = np.asarray(steer.gate_LB)
            for gate_L, index in by_gates(gate_LN) if depends_on_gates(steer) else [(gate_LN[:, 0], everyone)]:
                yield from self._run(index, steer, steer.replace(gate_LB=gate_L[:, None]))
        elif depends_on_gates(steer):
            yield from self._settle(everyone, steer)
        else:
            yield from self._run(everyone, steer, steer)

    def scores(self) -> WordScores:
        """The result, without the cost of what is shared; one transfer from the device."""
        task = self._task
        margins, index = jax.device_get(([m for _, m in self._done], [b.index for b in self._best]))
        margins_N = np.full(len(self._placed), np.nan, np.float32)
        for (number_C, _), margins_C in zip(self._done, margins, strict=True):
            margins_N[number_C[number_C >= 0]] = margins_C[number_C >= 0]
        shape = (len(task.positions), len(task.words))
        return WordScores(
            float(margins_N[0]), margins_N[1:].reshape(shape), np.stack(index), self._in_full, self._flops
        )

    def _run(self, index: np.ndarray, steer: Steer | None, for_prefix: Steer | None) -> Iterator[int]:
        """Scores candidates whose cache is that of `for_prefix`."""
        cache = self._shared.prefix(self._prompts, for_prefix)
        for p, block in self._blocks(self._prompts, index):
            margins_C, _ = self._score(block, cache.kv, _columns(steer, block.index_C))
            yield self._keep(p, block, margins_C, block.index_C)

    def _settle(self, index: np.ndarray, steer: Steer) -> Iterator[int]:
        """Scores candidates whose gates are decided layer by layer; see `guards.py`."""
        first = self._shared.prefix(self._prompts, steer)
        presumed = (np.asarray(first.gate_L) > 0).tobytes()
        waiting: dict[bytes, list[int]] = {presumed: list(index)}
        while waiting:
            pattern, some = waiting.popitem()
            gate_L1 = np.frombuffer(pattern, bool)[:, None]
            cache = first if pattern == presumed else self._shared.prefix(self._prompts, steer.replace(gate_LB=gate_L1))
            for p, block in self._blocks(self._prompts, np.array(some)):
                margins_C, gate_LC = self._score(block, cache.kv, steer)
                decided_LC = np.asarray(gate_LC) > 0
                settled_C = (decided_LC == gate_L1).all(axis=0) if block.start is not None else True
                for c in np.flatnonzero(~settled_C & (block.index_C >= 0)) if block.start is not None else ():
                    waiting.setdefault(decided_LC[:, c].tobytes(), []).append(int(block.index_C[c]))
                yield self._keep(p, block, margins_C, np.where(settled_C, block.index_C, -1))

    def _first_pass(self, guard: FirstPass) -> Any:
        """Runs every candidate's texts without steering; returns the guard's `Steer` with gate_LB [L, N]."""
        steer, gates = None, []
        for texts in zip(*(guard.texts(one.question) for one in self._placed), strict=True):
            steer, gate_LN = yield from self._read(guard, texts)
            gates.append(gate_LN)
        return steer.replace(gate_LB=np.any(gates, axis=0))

    def _read(self, guard: FirstPass, texts: Sequence[str]) -> Any:
        """Runs one text of every candidate, equal ones once; returns a `Steer` and the gates [L, N]."""
        first: dict[str, int] = {}
        same_N = np.array([first.setdefault(text, i) for i, text in enumerate(texts)])
        where, steer, gate_LN = self._where, None, np.zeros((self._task.cfg.text.L, len(texts)), bool)
        seen = guard.reads(self._shared.images, self._shared.context)
        prompts = self._tokenise([Placed(text) for text in texts], *seen)
        cache = self._shared.prefix(prompts, None)
        for _, block in self._blocks(prompts, np.unique(same_N)):
            steer = guard.decided(where.params, self._rows(block, cache.kv), self._task.cfg, where.lora)
            real = block.index_C >= 0
            gate_LN[:, block.index_C[real]] = np.asarray(steer.gate_LB)[:, real]
            yield int(real.sum())
        yield len(texts) - len(first)
        return steer, gate_LN[:, same_N]

    def _blocks(self, prompts: Prompts, index: np.ndarray) -> Iterator[tuple[int, Block]]:
        """(position, block) of these candidates; at each position those that share the prefix, then the others."""
        position = np.maximum(index - 1, 0) // len(self._task.words)
        for p in range(len(self._task.positions)):
            here = index[position == p]
            if not len(here):
                continue
            start, shares = prefix.shared_start(prompts, here)
            for some, at in ((here[shares], start), (here[~shares], None)):
                if len(some):
                    for block in prefix.blocks(prompts, some, at, self._task.block, self._where.rows):
                        yield p, block

    def _score(self, block: Block, kv: Any, steer: Steer | None) -> tuple[Array, Array | None]:
        task, real = self._task, block.index_C >= 0
        lengths = block.lengths_C[real] + (block.start or 0)
        self._flops += candidate_flops(task.cfg.text, block.start or 0, lengths, task.nodes)
        if steer is not None:
            columns = steer.gate_LB
            steer = self._where.put(steer.replace(gate_LB=None))
            if columns is not None:
                steer = steer.replace(gate_LB=self._where.spread(columns, axis=1))
        params, rows = self._where.params, self._rows(block, kv)
        return margin.score(params, rows, cfg=task.cfg, nodes=task.nodes, steer=steer, lora=self._where.lora)

    def _rows(self, block: Block, kv: Any) -> margin.CandidateRows:
        tokens, lengths = self._where.spread(block.tokens_CT), self._where.spread(block.lengths_C)
        whole = block.start is None
        features = self._shared.features if whole and (block.tokens_CT == self._task.cfg.image_token_id).any() else None
        return margin.CandidateRows(None if whole else kv, block.start or 0, tokens, lengths, features)

    def _keep(self, p: int, block: Block, margins_C: Array, number_C: np.ndarray) -> int:
        """Keeps the scores of the candidates `number_C` (-1: none); waits for the block before the last one."""
        self._best[p] = keep_best(self._best[p], margins_C, number_C - 1 - p * len(self._task.words), self._task.sign)
        self._done.append((number_C, margins_C))
        count = int((number_C >= 0).sum())
        if block.start is None:
            self._in_full[p] += int((number_C > 0).sum())
        self._running.append(margins_C)
        if len(self._running) > 2:  # the progress bar stays honest and memory bounded
            self._running.popleft().block_until_ready()
        return count


def _encoded_images(image: np.ndarray | Tiles) -> int:
    return len(image.pixels_MHWC) if isinstance(image, Tiles) else 1


def _columns(steer: Steer | None, index_C: np.ndarray) -> Steer | None:
    """`steer` with the gates of these candidates, where they are known."""
    if steer is None or steer.gate_LB is None:
        return steer
    return steer.replace(gate_LB=np.asarray(steer.gate_LB)[:, np.maximum(index_C, 0)])


def candidate_flops(cfg: TextConfig, start: int, lengths: np.ndarray, nodes: tuple[Node, ...]) -> float:
    """Scoring whole prompts of these lengths whose first `start` tokens are in the cache."""
    n = np.asarray(lengths)
    total = flops.decoder_flops(cfg, n) - n.size * flops.decoder_flops(cfg, np.array([start]))
    for node in nodes[1:]:  # one token each, behind the prompt and the node's earlier tokens
        end = n + len(node.prefix)
        total += flops.decoder_flops(cfg, end) - flops.decoder_flops(cfg, end - 1)
    return total + flops.head_flops(cfg, n.size * len(nodes))


def image_flops(cfg: ModelConfig, images: int | None = None) -> float:
    """One picture through the vision tower and the projector. images: its encoded images; None = as many as can be."""
    if cfg.vision is None:
        return 0.0
    images = cfg.vision.tiles if images is None else images
    projector = 2.0 * cfg.vision.tokens(images) * sum(flops.projector_sizes(cfg).values())
    return flops.vision_flops(cfg.vision, images) + projector
