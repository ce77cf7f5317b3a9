"""Projected gradient descent on the image (Madry et al. 2018, arXiv 1706.06083), in whole pixel steps.

The image is attacked as the model sees it: after resizing and cropping, before normalisation, in 0..255. Every step
moves each value by a whole number of grey levels along the sign of the refusal margin's gradient, and the bound is a
whole number too. So the image is a picture of eight bits at every step, inside the bound and the box: nothing is
rounded away when it is saved, and a file of it gives the model the very same pixels (checked, and in the result).

A model that cuts pictures into several encoded images is attacked through the cutting (`sight.py`): the picture itself
is changed, at its own size. A file of it differs then by the rounding of the image processor's scaling, and the margin
from the file stands beside the search's own.

Of several images, in one question or in the turns before it, one is changed. The others run once.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from vlm_mu_jax.attacks.margin import margin, prefix, search_run
from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.openings import Node, Openings
from vlm_mu_jax.attacks.margin.prefix import ImageTokens
from vlm_mu_jax.attacks.margin.scoring import Place, SearchTask, candidate_flops, image_flops, places
from vlm_mu_jax.attacks.margin.search_run import Counting, SearchRun, SearchTarget, Work
from vlm_mu_jax.attacks.measure import Attempt, Comparison
from vlm_mu_jax.attacks.method import MeasuredProposal, Proposal, Setting, report
from vlm_mu_jax.attacks.methods.sight import of_picture
from vlm_mu_jax.attacks.questions import SearchQuestion, image_to_change, search_questions
from vlm_mu_jax.data import images, tiling
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.data.tiling import Stacked, Tiles
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.image_plans.image_plan import ImagePlan
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import encode_images
from vlm_mu_jax.steering.shapes import check_shapes
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class PixelOptions:
    """How an image is changed.

    Attributes:
      epsilon: the largest change of a value, in grey levels of 255.
      step: the change of a value in one step, in grey levels of 255.
      steps: at most so many.
      stop: ends the search when the margin has passed 0 by so many nats in the goal's direction.
      seed: draws the start and the control. `vlm_mu_jax.attack` sets it to its own.
      image: which image of the prompt is changed, counted from 1. None is the last one.
    """

    epsilon: int = 8
    step: int = 1
    steps: int = 40
    stop: float = 3.0
    seed: int = 0
    image: int | None = None


@dataclasses.dataclass(frozen=True)
class FoundImage:
    """One question's image.

    Attributes:
      image, control: PNG files: the image that was found, and one that is changed at random by +-epsilon.
      margin: the refusal margin with the image, in nats; from_file: the same, with the image read back from its file.
      original, random: the margin with the unchanged image and with `control`.
      largest: the largest change of a value, in grey levels.
      curve: the best margin after each step.
      gradients, flops: what the search spent.
    """

    image: str
    control: str
    margin: float
    from_file: float
    original: float
    random: float
    largest: int
    curve: tuple[float, ...]
    gradients: int
    flops: float

    to_dict = dataclasses.asdict

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "FoundImage":
        return cls(**{**row, "curve": tuple(row["curve"])})


def search(
    model: Model,
    questions: Sequence[SearchQuestion],
    target: SearchTarget,
    options: PixelOptions,
    folder: Path,
    run: SearchRun = SearchRun(),
) -> list[FoundImage]:
    """An image for every question, each for itself, as PNG files in `folder`.

    A question is one row, so it is not spread over a mesh: every mesh of the run computes questions of its own.

    Raises:
      InputError: a text-only model or question, or an image that is no file for a model that cuts pictures.
      JobError: a score is not a finite number.
    """
    _check(model.config, questions, options.image)
    task = SearchTask(model.config, model.processor, target)
    keys = [question.key(target.goal) for question in questions]
    found = search_run.results(
        dict(zip(keys, questions, strict=True)),
        lambda where, key, question: _Search(task, where, question, options.image).run(options, folder, key),
        places(model.params, task, run.meshes),
        run,
        Counting(f"{target.goal} images", options.steps),
        finished=lambda one: Path(one.image).exists() and Path(one.control).exists(),
    )
    return [found[key] for key in keys]


def _check(cfg: ModelConfig, questions: Sequence[SearchQuestion], number: int | None) -> None:
    if cfg.vision is None or not all(question.images for question in questions):
        raise InputError("--method=pgd changes images; this model or a question has none, so use another --method")
    for question in questions:
        changed = question.images[image_to_change(question.images, number)]
        if _plan(cfg, question).varies and not isinstance(changed, Path):
            raise InputError(
                "--method=pgd changes image files; this model cuts pictures, so give every question a file"
            )


def _plan(cfg: ModelConfig, question: SearchQuestion) -> ImagePlan:
    """How a picture of the question is cut: some models read one among others differently."""
    among = len(question.images) > 1 and cfg.vision.several is not None
    return cfg.vision.several if among else cfg.vision.plan


class _Search:
    """One question and its image."""

    def __init__(self, task: SearchTask, where: Place, question: SearchQuestion, number: int | None) -> None:
        self._task, self._where, self._question = task, where, question
        at, pixels = image_to_change(question.images, number), question.pixels(task.processor)
        plan = _plan(task.cfg, question)
        picture = images.load(question.images[at]) if plan.varies else pixels[at]
        self._sight = of_picture(picture, task.processor, plan)
        self._row = self._first_pass = _row(task.processor, question.question, pixels, question.context)
        if isinstance(task.steer, FirstPass):
            seen = task.steer.reads(pixels, question.context)
            self._first_pass = _row(task.processor, question.question, *seen)
        self._others = Others(
            *(_others(where, task.cfg, some) for some in (pixels[:at], pixels[at + 1 :])), _tokens(pixels[at], task.cfg)
        )

    def run(self, use: PixelOptions, folder: Path, key: str) -> Work:
        task = self._task
        base = self._sight.base_HWC
        rng = np.random.default_rng([use.seed, zlib.crc32(key.encode())])
        control = projected(base + use.epsilon * rng.choice([-1, 1], base.shape), base, use.epsilon)
        now = projected(base + rng.integers(-use.epsilon, use.epsilon + 1, base.shape), base, use.epsilon)
        best, best_margin, curve = now, np.nan, []
        for _ in range(use.steps):
            running = self._begin(now)
            yield 0
            score, slope = float(running[0]), np.asarray(running[1], np.int64)
            if not np.isfinite(score):
                raise JobError(f"the refusal margin of {self._question.question[:40]!r} is not a finite number")
            if not task.sign * score <= task.sign * best_margin:  # also the first, when there is none yet
                best, best_margin = now, score
            curve.append(best_margin)
            yield 1
            if task.sign * best_margin >= use.stop:
                break
            now = projected(now + round(task.sign) * use.step * slope, base, use.epsilon)
        yield use.steps - len(curve)
        files = [save(image, folder / f"{name}_{key[:16]}.png") for name, image in (("pgd", best), ("random", control))]
        original, random = (float(self._begin(image)[0]) for image in (base, control))
        from_file = float(self._from_file(files[0]))
        gradients, cost = len(curve) + 3, 2 * (image_flops(task.cfg, self._sight.images) + self._flops())
        return FoundImage(
            str(files[0]),
            str(files[1]),
            best_margin,
            from_file,
            original,
            random,
            int(np.abs(best - base).max()),
            tuple(curve),
            gradients,
            gradients * cost,
        )

    def _begin(self, image_HWC: np.ndarray) -> tuple[Array, Array]:
        """Hands the refusal margin with this picture of 0..255, and the sign of its gradient, to the devices."""
        x_HWC = self._where.put(image_HWC.astype(np.float32))
        score, slope = self._margin(self._sight.shown(x_HWC))
        return score, self._sight.signs(x_HWC, slope)

    def _from_file(self, file: Path) -> Array:
        """The margin with a picture as the model reads it from its file."""
        alike, *_ = self._task.processor.together([file] * len(self._question.images))
        pixels = self._task.processor.pixels(alike)
        return self._margin(tiling.stack([[pixels]], 1, pixels, width=self._sight.width))[0]

    def _margin(self, shown: Stacked) -> tuple[Array, Array]:
        task, where = self._task, self._where
        shown = where.put(shown)
        steer = task.steer
        if isinstance(steer, FirstPass):
            image = None if steer.text_only else image_tokens(where.params, shown, self._others, cfg=task.cfg)
            rows = margin.CandidateRows(None, 0, *where.put(self._first_pass), image)
            steer = steer.decided(where.params, rows, task.cfg, where.lora)
        return margin_and_slope(
            where.params,
            *where.put(self._row),
            shown,
            self._others,
            cfg=task.cfg,
            nodes=task.nodes,
            steer=where.put(steer),
            lora=where.lora,
        )

    def _flops(self) -> float:
        return candidate_flops(self._task.cfg.text, 0, np.asarray(self._row[1]), self._task.nodes)


@flax.struct.dataclass
class Others:
    """The other images of a prompt, as the decoder gets them: those before the picture and those behind it.

    tokens: image tokens of the picture itself.
    """

    before: ImageTokens | None
    behind: ImageTokens | None
    tokens: int = flax.struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnames=("cfg", "nodes"))
def margin_and_slope(
    params: Params,
    tokens_1T: Array,
    length_1: Array,
    shown: Stacked,
    others: Others,
    *,
    cfg: ModelConfig,
    nodes: tuple[Node, ...],
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> tuple[Array, Array]:
    """The refusal margin of a whole prompt about a picture, and its gradient in the picture's encoded images.

    Args:
      tokens_1T: int [1, T], the prompt; length_1: int [1].
      shown: the picture's encoded images, normalised, in a batch of one row.
      others: the prompt's other images.

    Returns:
      (margin in nats, its gradient in the pixels).
    """
    check_shapes(tokens_1T=tokens_1T, length_1=length_1, pixels_1MHWC=shown.pixels_BMHWC)

    def refusal_margin(pixels_1MHWC: Array) -> Array:
        image = image_tokens(params, shown._replace(pixels_BMHWC=pixels_1MHWC), others, cfg=cfg)
        row = margin.CandidateRows(None, 0, tokens_1T, length_1, image)
        score_1, _ = margin.score(params, row, cfg=cfg, nodes=nodes, steer=steer, lora=lora)
        return score_1[0]

    return jax.value_and_grad(refusal_margin)(shown.pixels_BMHWC)


@functools.partial(jax.jit, static_argnames="cfg")
def image_tokens(params: Params, shown: Stacked, others: Others, *, cfg: ModelConfig) -> ImageTokens:
    """A picture to the decoder, among the others of its prompt."""
    features_1QD = encode_images(params, shown.pixels_BMHWC, cfg, shown.gather_BQ, shown.grid_BI2)
    if others.before is others.behind is None:
        return ImageTokens(features_1QD, shown.grid_BI2)
    own = ImageTokens(features_1QD[:, : others.tokens], shown.grid_BI2)
    parts = [part for part in (others.before, own, others.behind) if part is not None]
    return jax.tree.map(lambda *some: jnp.concatenate(some, axis=1), *parts)


def projected(x_HWC: np.ndarray, base_HWC: np.ndarray, epsilon: int) -> np.ndarray:
    """The nearest picture within `epsilon` of `base` and within 0..255."""
    return np.clip(np.clip(x_HWC, base_HWC - epsilon, base_HWC + epsilon), 0, 255)


def save(image_HWC: np.ndarray, path: Path) -> Path:
    """Writes a picture; an interrupted write leaves no half file under its name."""
    with complete_file(path) as partial:
        Image.fromarray(image_HWC.astype(np.uint8)).save(partial, format="PNG")
    return path


def _tokens(image: np.ndarray | Tiles, cfg: ModelConfig) -> int:
    """Image tokens of one picture."""
    return len(image.gather_Q) if isinstance(image, Tiles) else cfg.vision.P


def _others(where: Place, cfg: ModelConfig, some: Sequence[np.ndarray | Tiles]) -> ImageTokens | None:
    """Pictures to the decoder, without room for more."""
    found = prefix.image_features(where.params, some, cfg, where.put)
    count = sum(_tokens(image, cfg) for image in some)
    return None if found is None else found.replace(features_1QD=found.features_1QD[:, :count])


def _row(processor: Processor, question: str, images: Images, context: Context | None) -> tuple[np.ndarray, np.ndarray]:
    """The whole prompt as one padded row: tokens [1, T] and its length [1]."""
    prompts = prefix.tokenise(processor, question, images, [Placed(question)], context)
    block = next(prefix.blocks(prompts, np.array([0]), None, 1))
    return block.tokens_CT, block.lengths_C


@dataclasses.dataclass(frozen=True)
class PixelAttack:
    """An image for every verification question by projected gradient descent, tried on that question."""

    openings: Openings
    options: PixelOptions = PixelOptions()
    name: str = "pgd"

    def search(self, setting: Setting) -> None:
        """Searches an image for each question of this job's share."""
        for goal in setting.draw.goals:
            self._searched(setting, goal, setting.shared_out(setting.to_verify(goal)))

    def _searched(self, setting: Setting, goal: str, records: Records) -> list[FoundImage]:
        target, questions = setting.target(self.openings, goal), search_questions(records)
        return search(setting.model, questions, target, self.options, setting.folder, setting.run)

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """The changed images, beside images that are changed as much at random."""
        number = self.options.image
        for goal in setting.draw.goals:
            records = setting.to_verify(goal)
            found = self._searched(setting, goal, records)
            attempts, control = (
                {
                    r.id: [Attempt(name, r.question, image=Path(path), place=image_to_change(r.images, number))]
                    for r, path in zip(records, paths, strict=True)
                }
                for name, paths in (("pgd", [f.image for f in found]), ("random", [f.control for f in found]))
            )
            names = (self.name, f"{self.name}_control")
            main = Comparison(records, attempts, control, names, f"{goal} {self.name}", searched=True)
            entries = [{"id": r.id, **_entry(one)} for r, one in zip(records, found, strict=True)]
            yield Proposal(goal, main, details=entries)

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        control = "the same images, every value changed by the same bound at random"
        content = report(self.name, control, self.openings, setting, measured)
        return content | {"search": dataclasses.asdict(self.options)}


def _entry(found: FoundImage) -> dict[str, Any]:
    """One search for the file: what it did step by step stays in NAME.margins.jsonl."""
    row = {name: value for name, value in found.to_dict().items() if not isinstance(value, tuple)}
    return row | {"steps": len(found.curve)}
