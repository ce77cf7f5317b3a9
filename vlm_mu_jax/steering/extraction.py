"""Extraction: from anchor texts to a guard."""

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering import ada_steer, alpha_steer, gates, guard_folder
from vlm_mu_jax.steering.anchor_texts import Anchors, load_anchors
from vlm_mu_jax.steering.auroc import auroc_per_layer
from vlm_mu_jax.steering.directions import Directions, difference_of_means
from vlm_mu_jax.steering.estimators import PAIRED, estimate
from vlm_mu_jax.steering.guard import LINEAR, Guard
from vlm_mu_jax.steering.guard_options import GuardOptions
from vlm_mu_jax.steering.hidden_states import LOCATION, POSITION, last_token_states
from vlm_mu_jax.steering.operators import FIXED_STRENGTH, parse_layers
from vlm_mu_jax.steering.published_guards import published
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model

DEFAULT_STRENGTH = {"transplant": 1.0, **FIXED_STRENGTH}  # of the operators whose default is not that of GuardOptions


@dataclasses.dataclass(frozen=True)
class ExtractOptions:
    """How the directions are taken, and how the guard uses them.

        ExtractOptions(method="shiftdc", layers="4-9")
        ExtractOptions(rank=2, layers="last", using={"decide": "example", "gate_source": "text", "scope": "last"})

    Attributes:
      method: name of a published guard (`steering.published_guards`). It sets the estimator and some of the guard's
        options; `estimator` and `using` override it.
      estimator: how the direction is computed from the anchors' states (`steering.estimators`). None: the method's,
        else `svd`.
      rank: how many directions per layer.
      position: the prompt token that directions are read from. -1 is the last one. Gates read the last one in any case.
      llm: another model of the same depth and width, or its folder, whose language tower the directions come from; for
        example the language model that a VLM was built on. None: the model's own. Thresholds always come from the
        guarded model.
      benign: further harmless texts, such as the questions that the model is asked every day (`everyday_questions`).
        They differ from the anchors in more than harm, so the directions do not use them. The gate does: it projects on
        the discriminant (LDA) of the harmful anchors against both, and its thresholds count both.
      blank: kind of the blank image that the anchors are also scored with, so that thresholds can be calibrated for
        prompts with an image. None: no image. A model without vision has none.
      layers: the layers steered, as in `operators.parse_layers` or as numbers.
      location: "output" or "input": whether `layers` and `gate_layers` count block outputs or inputs. The input of
        block 5 is the output of block 4.
      gate_layers: the layers that vote, with `decide="example"`. None: the steered ones.
      using: the other fields of `GuardOptions`. A strength that is not given is 2, or 1 for `transplant`. A
        `transplant` without a component takes that of the prompt which the gate reads, else that of the text.
      batch_size: prompts run at a time.
    """

    method: str | None = None
    estimator: str | None = None
    rank: int = 1
    position: int = -1
    llm: Model | str | Path | None = None
    benign: Sequence[str] = ()
    blank: str | None = "white"
    layers: str | Sequence[int] = "middle"
    location: str = "output"
    gate_layers: str | Sequence[int] | None = None
    using: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 16

    def resolve(self, L: int) -> tuple[str, GuardOptions]:
        """Estimator and guard options for a model of L layers.

        Raises InputError for an unknown name, for layers outside the model, and for options that exclude each other.
        """
        estimator, named = published(self.method) if self.method else ("svd", {})
        known = {field.name: field.default for field in dataclasses.fields(GuardOptions)}
        if unknown := [name for name in self.using if name not in known or name.endswith("layers")]:
            raise InputError(f"using: {', '.join(unknown)} is no such option; GuardOptions lists them")
        use = {**known, **named, **self.using}
        if use["operator"] in FIXED_STRENGTH and "strength" in self.using:
            raise InputError(f"--operator={use['operator']} has a fixed strength; leave out --strength")
        if "strength" not in {*named, *self.using}:
            use["strength"] = DEFAULT_STRENGTH.get(use["operator"], known["strength"])
        if use["operator"] == "transplant" and use["component"] == "token":
            use["component"] = use["gate_source"] if use["decide"] == "example" else "text"
        use["layers"] = self._layers(self.layers, L)
        use["gate_layers"] = self._layers(self.gate_layers, L) if self.gate_layers else ()
        return self.estimator or estimator, GuardOptions(**use)

    def _layers(self, chosen: str | Sequence[int], L: int) -> tuple[int, ...]:
        text = chosen if isinstance(chosen, str) else ",".join(map(str, chosen))
        layers = parse_layers(text, L)
        if self.location == "output" or not text[0].isdigit():
            return layers
        if layers[0] == 0:
            raise InputError(
                "the input of block 0 is the embedding, which tells nothing of the prompt; start at layer 1"
            )
        return tuple(layer - 1 for layer in layers)


def extract_guard(
    model: Model,
    anchors: Anchors | str | Path,
    options: ExtractOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Guard:
    """Takes safety directions from anchor texts and makes a guard of `model`.

        guard = vlm_mu_jax.extract_guard(model, "anchors.json", vlm_mu_jax.ExtractOptions(rank=2))
        guard.save("runs/guard")

    The anchors are run as text, through the model's conversation template, behind the turns before them.

    Args:
      model: what `vlm_mu_jax.load` returns.
      anchors: texts of both classes, or the path of their file (`steering.anchor_texts`).

    Returns:
      The guard, with `origin` holding hashes and the in-sample AUROC of every layer.

    Raises:
      InputError: the anchors give no direction, single anchors for an estimator that needs pairs, an `llm` of another
        shape, or options that do not fit.
    """
    options = options or ExtractOptions()
    anchors = anchors if isinstance(anchors, Anchors) else load_anchors(anchors)
    estimator, use = options.resolve(model.config.text.L)
    if estimator in PAIRED and not anchors.paired:
        raise InputError(f"estimator {estimator} needs pairs of anchors, these are single texts; use --estimator=means")
    if options.llm is not None:
        options = dataclasses.replace(options, llm=model_folder.opened(options.llm))
        _check_llm(model, options.llm, estimator)
    states = _read_states(model, anchors, estimator, options, progress)
    directions = estimate(estimator, *states.classes, rank=options.rank, blank_LKD=states.source_blank_LKD)
    linear = use.gate == "linear"
    gate_LD = _linear_gate(states) if linear else _gate(estimator, directions, states)
    scores = _anchor_scores(gate_LD, states)
    origin = _origin(model, anchors, estimator, options) | {
        "auroc_anchors": auroc_per_layer(scores.harmful_LN, scores.harmless_LN),  # in sample: a check, not a claim
        **({"gate_rows": LINEAR} if linear else {}),
        **({"ada_steer": _regressions(directions, gate_LD, states)} if use.component == "adaptive" else {}),
        "residual_norm_L": np.linalg.norm(states.text_LND, axis=-1).mean(1).tolist(),
    }
    guard = Guard(directions, gate_LD, scores, use, origin)
    guard.threshold_L()  # both raise where the options do not fit this guard
    if not use.needs_first_pass:
        guard.as_steer()
    return guard


def everyday_questions(records: Records, most: int = 200) -> list[str]:
    """Questions for `ExtractOptions.benign`: those of safe and general records, at most `most`, drawn by seed 0.

    Raises InputError when there is none.
    """
    questions = sorted({record.question for record in records if record.kind != "unsafe"})
    if not questions:
        raise InputError(f"{records.source}: holds no safe or general question; give another file to --benign")
    return random.Random(0).sample(questions, min(most, len(questions)))


@dataclasses.dataclass(frozen=True)
class _AnchorStates:
    """Last-token states of the anchors: N rows, the harmful ones first, then the harmless ones, then the benign texts.

    text_LND, blank_LND: of the guarded model, for thresholds. source_LND, source_blank_LND: where directions come from.
    """

    text_LND: np.ndarray
    blank_LND: np.ndarray | None
    source_LND: np.ndarray
    source_blank_LND: np.ndarray | None
    harmful: int
    harmless: int

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        return self.source_LND[:, : self.harmful], self.source_LND[:, self.harmful : self.harmful + self.harmless]

    @property
    def answered(self) -> tuple[np.ndarray, np.ndarray]:
        """With a blank image: harmful ones, all others."""
        return self.blank_LND[:, : self.harmful], self.blank_LND[:, self.harmful :]

    @property
    def source_blank_LKD(self) -> np.ndarray | None:
        """Of the anchors alone."""
        blank_LND = self.source_blank_LND
        return None if blank_LND is None else blank_LND[:, : self.harmful + self.harmless]


def _read_states(
    model: Model, anchors: Anchors, estimator: str, options: ExtractOptions, progress: Progress | None
) -> _AnchorStates:
    questions = [*anchors.harmful, *anchors.harmless, *options.benign]
    contexts = [*anchors.contexts, *[None] * (len(questions) - len(anchors.contexts))]
    blanks = None
    if options.blank is not None and model.config.vision is not None:
        blanks = [model.processor.blank_pixels(options.blank)] * len(questions)

    def read(of: Model, label: str, images: list | None = None, at: int = -1) -> np.ndarray:
        around = [context and context.without_images(int(images is not None)) for context in contexts]
        how: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress, "label": label}
        return last_token_states(of, questions, images, at=at, contexts=around, **how)

    text_LND = read(model, "anchors, text only")
    blank_LND = None if blanks is None else read(model, "anchors, blank image", blanks)
    source_LND, source_blank_LND = text_LND, blank_LND
    if options.llm is not None or options.position != -1:
        source_LND = read(options.llm or model, "anchors, for the direction", at=options.position)
        if estimator in ("image_shift", "lost_refusal") and blanks is not None:
            source_blank_LND = read(model, "anchors, blank image", blanks, at=options.position)
    counts = len(anchors.harmful), len(anchors.harmless)
    return _AnchorStates(text_LND, blank_LND, source_LND, source_blank_LND, *counts)


def _gate(estimator: str, directions: Directions, states: _AnchorStates) -> np.ndarray:
    """What the gate projects on, [L, D]. With lost_refusal: AdaSteer's harmfulness direction."""
    if estimator == "lost_refusal":
        harmful_LND, others_LND = states.answered
        return difference_of_means(harmful_LND, others_LND[:, : states.harmless]).basis_LMD[:, 0]
    count, text_LND = states.harmful, states.text_LND
    if count + states.harmless < text_LND.shape[1]:  # there are benign texts
        return estimate("lda", text_LND[:, :count], text_LND[:, count:]).basis_LMD[:, 0]
    # An image's shift tells nothing about harm: the gate keeps to the classes.
    return (difference_of_means(*states.classes) if estimator == "image_shift" else directions).basis_LMD[:, 0]


def _regressions(directions: Directions, harm_LD: np.ndarray, states: _AnchorStates) -> dict[str, Any]:
    """AdaSteer's, on the anchors' positions."""
    refused_LND = states.text_LND[:, : states.harmful]
    return ada_steer.fit(directions.basis_LMD[:, 0], harm_LD, refused_LND, *states.answered)


def _linear_gate(states: _AnchorStates) -> np.ndarray:
    """The rows of a linear gate, [L, D]. All but the harmful anchors are benign, without and with a blank image."""
    seen = [some for some in (states.text_LND, states.blank_LND) if some is not None]
    parts = [(some[:, : states.harmful], some[:, states.harmful :]) for some in seen]
    return alpha_steer.gate_rows(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def _check_llm(model: Model, llm: Model, estimator: str) -> None:
    ours, theirs = model.config.text, llm.config.text
    if (ours.L, ours.D) != (theirs.L, theirs.D):
        raise InputError(
            f"{llm.folder} has {theirs.L} layers of width {theirs.D}, the guarded model {ours.L} of width {ours.D}; "
            "a direction fits models of one shape only"
        )
    if estimator in ("image_shift", "lost_refusal"):
        raise InputError(f"estimator {estimator} compares the model with itself; leave out --llm")


def _anchor_scores(gate_LD: np.ndarray, states: _AnchorStates) -> gates.AnchorScores:
    def split(states_LND: np.ndarray | None) -> list:
        if states_LND is None:
            return [None, None]
        scores_LN = np.einsum("lnd,ld->ln", np.asarray(states_LND, np.float64), gate_LD)
        return [scores_LN[:, : states.harmful], scores_LN[:, states.harmful :]]

    return gates.AnchorScores(*split(states.text_LND), *split(states.blank_LND))


def _origin(model: Model, anchors: Anchors, estimator: str, options: ExtractOptions) -> dict[str, Any]:
    llm, position, benign = options.llm, options.position, options.benign
    return {
        "weights_sha256": weights_hash(model.params),
        "direction_weights_sha256": weights_hash((llm or model).params),
        "anchors_sha256": anchors.sha256,
        "anchors": {"harmful": len(anchors.harmful), "harmless": len(anchors.harmless), "paired": anchors.paired},
        "estimator": estimator,
        "rank": options.rank,
        "sign_rule": "every row points to the side of the harmful anchors (image_shift: of the image) on average",
        "location": LOCATION,
        "position": POSITION if position == -1 else f"prompt_token_{position}",
        "source": "own language tower, text only" if llm is None else f"language tower of {llm.folder}, text only",
        "template": model.processor.template,
        "layers_of_model": model.config.text.L,
        "width_of_model": model.config.text.D,
        "versions": guard_folder.versions(),
        "benign": {"texts": len(benign), "sha256": hashlib.sha256("\n".join(benign).encode()).hexdigest()},
    }
