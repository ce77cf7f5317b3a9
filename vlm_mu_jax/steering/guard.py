"""The guard as one object: directions of a model, how they are used, and where they come from.

    guard = extract(model, load_anchors("anchors.json"))   # steering.extract: text-only states of the language tower
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
from vlm_mu_jax.model.steer import SCOPES, Steer
from vlm_mu_jax.steering import artifact, gates, operators
from vlm_mu_jax.steering.directions import Directions
from vlm_mu_jax.storage.identity import weights_hash

DECIDERS = ("layer", "example")
SOURCES = ("self", "text")
COMPONENTS = ("token", *SOURCES)
UNITS = ("gap", "norm")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the directions are used.

    operator: name in operators.OPERATORS. strength: alpha of amplify, add and transplant (the others fix it). layers:
    0-based, the blocks whose output is steered. unit: what strength 1 of add is, "gap" = the distance of the class
    means along the direction, "norm" = the mean norm of the residual stream there.
    component: whose component amplify and transplant add, "token" = each token's own, "self" = of the prompt's last
    token, "text" = of the last token of the text-only prompt (readings iii, i and ii of the paper's step 3).
    gate: name in gates.GATES. decide: "layer" = every layer's gate for itself, as in the paper; "example" = one
    vote of `gate_layers` (the steered layers when empty) on a first, unsteered pass, on when at least `quorum` of them
    agree. gate_source: the prompt of that first pass, "self" = as asked, with its image, "text" = the question alone:
    the language model supervises the multimodal run (a reading of VLM-Guard, whose directions are those of a text-only
    model; an image moves every state, so that a threshold taken from text no longer fits). fpr: of the calibrated gate.
    norm_preserving: rescale to the norm before steering. scope: positions written, see `model.decoder.SCOPES`. Whether
    to refuse is decided in the prompt; on the miniature, steering the answer as well adds no refusals and turns its
    wording into nonsense.
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
    component: str = "token"
    unit: str = "gap"
    gate_layers: tuple[int, ...] = ()

    def __post_init__(self):
        checks = (
            ("operator", self.operator, operators.OPERATORS),
            ("gate", self.gate, gates.GATES),
            ("decide", self.decide, DECIDERS),
            ("gate_source", self.gate_source, SOURCES),
            ("scope", self.scope, SCOPES),
            ("component", self.component, COMPONENTS),
            ("unit", self.unit, UNITS),
        )
        for name, value, known in checks:
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
        if self.decide == "layer" and (self.gate_source == "text" or self.gate_layers) and self.gate != "none":
            raise InputError(
                "a gate that reads the text alone or layers of its own needs a pass of its own; add --decide=example"
            )
        if self.operator == "transplant" and self.component == "token":
            raise InputError("transplant needs the component of another run; add --component=text (or self)")
        if self.operator == "ablate" and (self.gate != "none" and self.decide == "layer"):
            raise InputError("ablate writes before a layer could decide; use --gate=none or --decide=example")
        reading = {self.gate_source} if self._votes else set()
        if len(reading | ({self.component} - {"token"})) > 1:
            raise InputError("gate and component read different prompts; one first pass serves both, make them equal")

    @property
    def _votes(self) -> bool:
        return self.decide == "example" and self.gate != "none"

    @property
    def needs_first_pass(self) -> bool:
        """Whether an unsteered pass runs before the model: for the gate, for the component, or for both."""
        return self._votes or self.component != "token"

    @property
    def first_pass_reads_text(self) -> bool:
        """Whether that pass runs the text alone."""
        return "text" in (self.gate_source if self._votes else None, self.component)


@dataclasses.dataclass(frozen=True)
class Guard:
    """Directions that are steered along, and how.

    gate_LD: unit vectors that the gates project on. scores: of the anchors along these, for thresholds. origin: hashes,
    location, template, versions.
    """

    directions: Directions
    gate_LD: np.ndarray
    scores: gates.AnchorScores
    settings: Settings
    origin: dict

    def using(self, rank: int = 0, **changes) -> "Guard":
        """The same guard with other settings. rank: keeps the first so many rows of its subspace, 0 = all.

        Raises InputError for more rows than there are.
        """
        found, guard = self.directions.basis_LMD.shape[1], self
        if rank > found:
            raise InputError(f"the guard has {found} direction(s), not {rank}; extract it with --rank={rank}")
        if rank:
            guard = dataclasses.replace(
                self, directions=self.directions.first(rank), origin={**self.origin, "rank": rank}
            )
        return dataclasses.replace(guard, settings=dataclasses.replace(self.settings, **changes))

    def threshold_L(self) -> np.ndarray:
        """Gate threshold per layer under the current settings; a gate that reads text knows text scores only."""
        scores = self.scores
        if self.settings.gate_source == "text":
            scores = gates.AnchorScores(scores.harmful_LN, scores.harmless_LN)
        return gates.thresholds(self.settings.gate, scores, self.settings.fpr)

    def steer(self, first_pass_LBD: np.ndarray | None = None) -> Steer:
        """The model's `Steer`.

        first_pass_LBD: unsteered last-token states of the batch; needed when the gate decides once per example or the
        component is another run's, ignored otherwise. Raises InputError when it is needed and absent.
        """
        use, basis_LMD = self.settings, self.directions.basis_LMD
        if use.needs_first_pass and first_pass_LBD is None:
            raise InputError(
                "this guard decides once per example, from a first pass that is not run here; "
                "extract one with --decide=layer and --component=token"
            )
        component_LBM = None
        if use.component != "token":
            component_LBM = np.einsum("lbd,lmd->lbm", np.asarray(first_pass_LBD, np.float64), basis_LMD)
        steer = operators.build(
            use.operator,
            basis_LMD,
            use.strength,
            use.layers,
            unit_L=self.unit_L(),
            component_LBM=component_LBM,
            norm_preserving=use.norm_preserving,
        ).replace(scope=use.scope)
        if use.gate == "none":
            return steer
        threshold_L = self.threshold_L()
        steer = gates.per_layer(steer, threshold_L, self.gate_LD)
        if use.decide == "layer":
            return steer
        layers = use.gate_layers or use.layers
        return gates.per_example(steer, first_pass_LBD, use.quorum, threshold_L=threshold_L, layers=layers)

    def unit_L(self) -> np.ndarray:
        """Length of strength 1 of the operator add, in units of the residual stream, [L]."""
        return self.directions.gap_L() if self.settings.unit == "gap" else np.asarray(self.origin["residual_norm_L"])

    def save(
        self,
        folder: str | Path,
        extra: dict | None = None,
        files: dict[str, bytes] | None = None,
        arrays: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Writes the artifact; `extra` (for example the scores of a selection) goes into its JSON, `files` beside it,
        `arrays` to the others."""
        fields = dataclasses.fields(Directions)
        arrays = (arrays or {}) | {field.name: getattr(self.directions, field.name) for field in fields}
        arrays |= {name: value for name, value in vars(self.scores).items() if value is not None}
        arrays["gate_LD"] = self.gate_LD
        arrays["threshold_L"] = self.threshold_L()  # for other programs; recomputed from the scores on loading
        settings = dataclasses.asdict(self.settings)
        artifact.write(folder, arrays, {"settings": settings, "origin": self.origin, **(extra or {})}, files)


def load_guard(folder: str | Path, model, allow_other_model: bool = False) -> Guard:
    """Reads an artifact for `model`.

    Raises InputError when the file is missing or damaged, when its shapes do not fit the model, and when it was
    taken from other weights or another template, unless `allow_other_model` says that this is wanted.
    """
    arrays, meta = artifact.read(folder)
    settings = settings_of(folder, meta)
    try:
        directions = Directions(**{field.name: arrays[field.name] for field in dataclasses.fields(Directions)})
        gate_LD = arrays.get("gate_LD", directions.basis_LMD[:, 0])  # older guards had no other
        scores = gates.AnchorScores(**{name: value for name, value in arrays.items() if name.endswith("_LN")})
        guard = Guard(directions, gate_LD, scores, settings, meta["origin"])
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
    if weights != weights_hash(model.params):
        raise InputError(
            f"{folder} was extracted from other weights than {model.folder}; extract a guard from this "
            "model, or give --allow_other_model to use it all the same"
        )


def settings_of(folder: str | Path, meta: dict) -> Settings:
    """The settings in an artifact's JSON. Raises InputError when they are not those of a guard."""
    try:
        known = {"scope": "all", **meta["settings"]}  # guards written before there was a scope steered every position
        return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} lacks or misspells a part ({error}); make it again with bin/guard extract"
        ) from None


def load_steer(path: str | Path, model, allow_other_model: bool = False) -> Steer:
    """`load_guard(...).steer()`: the artifact as the model's `Steer`, for guards that need no first pass."""
    return load_guard(path, model, allow_other_model).steer()
