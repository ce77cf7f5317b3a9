"""The guard as one object: directions of a model, how they are used, and where they come from.

    guard = extract(model, load_anchors("anchors.json"))          # text-only states of the model's own language tower
    guard = guard.using(operator="amplify", strength=2.0, layers=(1,), gate="midpoint")
    guard.save("runs/guard")
    answers = answer(model, questions, images, guard=load_guard("runs/guard", model))   # steering.guarded

Source of the method: VLM-Guard (arXiv 2502.10486). Where the paper is silent the choice is recorded in the
artifact: sign by the mean projection, block output, last prompt token, own language tower on text-only input.
"""

import dataclasses
from pathlib import Path

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.decoder import Steer
from vlm_mu_jax.steering import artifact, gates, operators
from vlm_mu_jax.steering.anchors import Anchors
from vlm_mu_jax.steering.directions import Directions, auroc_per_layer, difference_of_means, paired_svd
from vlm_mu_jax.steering.states import LOCATION, POSITION, Progress, last_token_states

ESTIMATORS = ("svd", "means")
DECIDERS = ("layer", "example")
GATE_SOURCES = ("self", "text")
SCOPES = ("all", "prompt", "last")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the directions are used.

    operator: name in operators.OPERATORS. strength: alpha of amplify and add (the others fix it). layers: 0-based.
    gate: name in gates.GATES. decide: "layer" = every layer's gate for itself, as in the paper; "example" = one
    vote of the chosen layers on a first, unsteered pass, on when at least `quorum` of them agree. gate_source: the
    prompt of that first pass, "self" = as asked, with its image, "text" = the question alone: the language model
    supervises the multimodal run (a reading of VLM-Guard, whose directions are those of a text-only model; an image
    moves every state, so that a threshold taken from text no longer fits). fpr: of the calibrated gate.
    norm_preserving: rescale to the norm before steering. scope: positions written: "prompt", "last" = the prompt's
    last token, or "all" = prompt and answer. Whether to refuse is decided in the prompt; on the miniature, steering the
    answer as well adds no refusals and turns its wording into nonsense.
    """

    operator: str = "amplify"
    strength: float = 2.0
    layers: tuple[int, ...] = ()
    gate: str = "midpoint"
    decide: str = "layer"
    quorum: float = 0.5
    fpr: float = 0.05
    norm_preserving: bool = False
    gate_source: str = "self"
    scope: str = "prompt"

    def __post_init__(self):
        checks = (
            ("operator", self.operator, operators.OPERATORS),
            ("gate", self.gate, gates.GATES),
            ("decide", self.decide, DECIDERS),
            ("gate_source", self.gate_source, GATE_SOURCES),
            ("scope", self.scope, SCOPES),
        )
        for name, value, known in checks:
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
        if self.gate_source == "text" and self.decide != "example":
            raise InputError("a gate that reads the text alone needs a pass of its own; add --decide=example")

    @property
    def needs_first_pass(self) -> bool:
        """Whether the gate is decided before the model runs, from an unsteered pass."""
        return self.decide == "example" and self.gate != "none"


@dataclasses.dataclass(frozen=True)
class Guard:
    """Directions, anchor scores (for thresholds), settings, and `origin`: hashes, location, template, versions."""

    directions: Directions
    scores: gates.AnchorScores
    settings: Settings
    origin: dict

    def using(self, **changes) -> "Guard":
        """The same guard with other settings."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **changes))

    def threshold_L(self) -> np.ndarray:
        """Gate threshold per layer under the current settings; a gate that reads text knows text scores only."""
        scores = self.scores
        if self.settings.gate_source == "text":
            scores = gates.AnchorScores(scores.harmful_LN, scores.harmless_LN)
        return gates.thresholds(self.settings.gate, scores, self.settings.fpr)

    def steer(self, first_pass_LBD: np.ndarray | None = None) -> Steer:
        """The model's `Steer`.

        first_pass_LBD: unsteered last-token states of the batch; needed when the gate decides once per example,
        ignored otherwise. Raises InputError when it is needed and absent.
        """
        use = self.settings
        steer = operators.build(
            use.operator,
            self.directions.basis_LMD,
            use.strength,
            use.layers,
            unit_L=self.directions.gap_L(),
            norm_preserving=use.norm_preserving,
        ).replace(scope=use.scope)
        if use.gate == "none":
            return steer
        steer = gates.per_layer(steer, self.threshold_L())
        if not use.needs_first_pass:
            return steer
        if first_pass_LBD is None:
            raise InputError(
                "this guard decides once per example, from a first pass that is not run here; "
                "extract one with --decide=layer"
            )
        return gates.per_example(steer, first_pass_LBD, use.quorum)

    def save(self, folder: str | Path, extra: dict | None = None) -> None:
        """Writes the artifact; `extra` (for example the scores of a selection) goes into its JSON."""
        arrays = {field.name: getattr(self.directions, field.name) for field in dataclasses.fields(Directions)}
        arrays |= {name: value for name, value in vars(self.scores).items() if value is not None}
        arrays["threshold_L"] = self.threshold_L()  # for other programs; recomputed from the scores on loading
        settings = dataclasses.asdict(self.settings)
        artifact.write(folder, arrays, {"settings": settings, "origin": self.origin, **(extra or {})})


def extract(
    model,
    anchors: Anchors,
    *,
    rank: int = 1,
    estimator: str = "svd",
    blank_HWC: np.ndarray | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Guard:
    """Directions from the model's own language tower on text-only anchors, through its conversation template.

    blank_HWC: pixels of a blank image; the anchors are also scored with it, so that thresholds can be calibrated for
    prompts that hold an image (directions never come from those). The guard starts with the default settings
    at the middle third of the layers. Raises InputError on anchors that give no direction.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator {estimator!r} is unknown; use one of {', '.join(ESTIMATORS)}")
    questions = [*anchors.harmful, *anchors.harmless]
    count = len(anchors.harmful)
    states = last_token_states(model, questions, batch_size=batch_size, progress=progress, label="anchors, text only")
    if estimator == "svd":
        directions = paired_svd(states[:, :count], states[:, count:], rank)
    elif rank != 1:
        raise InputError(f"the difference of means has rank 1, not {rank}; use --rank=1 or --estimator=svd")
    else:
        directions = difference_of_means(states[:, :count], states[:, count:])
    text_LN = directions.scores(states)
    blank_LN = None
    if blank_HWC is not None:
        images = [blank_HWC] * len(questions)
        blank_LN = directions.scores(
            last_token_states(
                model, questions, images, batch_size=batch_size, progress=progress, label="anchors, blank image"
            )
        )
    scores = _anchor_scores(text_LN, blank_LN, count)
    origin = _origin(model, anchors, rank, estimator) | {
        "auroc_anchors": auroc_per_layer(scores.harmful_LN, scores.harmless_LN),  # in sample: a check, not a claim
        "residual_norm_L": np.linalg.norm(states, axis=-1).mean(1).tolist(),
    }
    layers = operators.parse_layers("middle", model.config.text.L)
    return Guard(directions, scores, Settings(layers=layers), origin)


def _anchor_scores(text_LN: np.ndarray, blank_LN: np.ndarray | None, count: int) -> gates.AnchorScores:
    blank = (None, None) if blank_LN is None else (blank_LN[:, :count], blank_LN[:, count:])
    return gates.AnchorScores(text_LN[:, :count], text_LN[:, count:], *blank)


def _origin(model, anchors: Anchors, rank: int, estimator: str) -> dict:
    return {
        "weights_sha256": artifact.weights_hash(model.params),
        "anchors_sha256": anchors.sha256,
        "anchor_pairs": len(anchors.harmful),
        "estimator": "uncentred SVD of paired differences" if estimator == "svd" else "difference of means",
        "rank": rank,
        "sign_rule": "harmful minus harmless; every row flipped to a positive mean projection",
        "location": LOCATION,
        "position": POSITION,
        "source": "own language tower, text only",
        "template": model.processor.template,
        "layers_of_model": model.config.text.L,
        "width_of_model": model.config.text.D,
        "versions": artifact.versions(),
    }


def load_guard(folder: str | Path, model, allow_other_model: bool = False) -> Guard:
    """Reads an artifact for `model`.

    Raises InputError when the file is missing or damaged, when its shapes do not fit the model, and when it was
    taken from other weights or another template, unless `allow_other_model` says that this is wanted.
    """
    arrays, meta = artifact.read(folder)
    try:
        # "all": guards written before there was a scope steered every position.
        settings = Settings(**{"scope": "all", **meta["settings"], "layers": tuple(meta["settings"]["layers"])})
        directions = Directions(**{field.name: arrays[field.name] for field in dataclasses.fields(Directions)})
        scores = gates.AnchorScores(**{name: value for name, value in arrays.items() if name.endswith("_LN")})
        guard = Guard(directions, scores, settings, meta["origin"])
        weights, template = guard.origin["weights_sha256"], guard.origin["template"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} lacks or misspells a part ({error}); make it again with bin/guard extract"
        ) from None
    found = directions.basis_LMD.shape
    if (found[0], found[2]) != (model.config.text.L, model.config.text.D):
        raise InputError(
            f"{folder} is for {found[0]} layers of width {found[2]}, the model has "
            f"{model.config.text.L} of width {model.config.text.D}; extract a guard from this model"
        )
    if not allow_other_model:
        _same_model(folder, model, weights, template)
    return guard


def _same_model(folder, model, weights: str, template: str) -> None:
    if template != model.processor.template:
        raise InputError(
            f"{folder} was made with conversation template {template!r}, the model uses "
            f"{model.processor.template!r}; extract again, or give --allow_other_model"
        )
    if weights != artifact.weights_hash(model.params):
        raise InputError(
            f"{folder} was extracted from other weights than {model.folder}; extract a guard from this "
            "model, or give --allow_other_model to use it all the same"
        )


def load_steer(path: str | Path, model, allow_other_model: bool = False) -> Steer:
    """`load_guard(...).steer()`: the artifact as the model's `Steer`, for guards that need no first pass."""
    return load_guard(path, model, allow_other_model).steer()
