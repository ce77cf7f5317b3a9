"""The guard as one object: directions of a model, how they are used, and where they come from.

    guard = vlm_mu_jax.extract_guard(model, "anchors.json")
    guard = guard.using(operator="amplify", strength=2.0, layers=(1,), gate="midpoint")
    guard.save("runs/guard")

    guard = vlm_mu_jax.load_guard("runs/guard", model)
    answers = answer(model, Asked(questions, images), guard=guard)   # steering.guarded_answers

Source of the method: VLM-Guard (arXiv 2502.10486). The guard folder records what the paper leaves open: the sign by the
mean projection, the block output, the last prompt token, the model's own language tower on text-only input.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.placing import without_first
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering import ada_steer, gates, guard_folder, operators
from vlm_mu_jax.steering.directions import Directions
from vlm_mu_jax.steering.guard_options import GuardOptions, stored_options
from vlm_mu_jax.steering.hidden_states import batch_states
from vlm_mu_jax.storage.identity import folder_hash, weights_hash
from vlm_mu_jax.storage.model_folder import Model

LINEAR = "alpha_steer"  # what `origin` calls the rows of a gate that may be linear


@dataclasses.dataclass(frozen=True)
class Guard:
    """Directions of one model and how they steer it.

    Attributes:
      directions: what is steered along, for every layer.
      gate_LD: float [L, D], the vectors that the gates project on: unit vectors, but for those of `alpha_steer`.
      scores: the anchors' projections on `gate_LD`. Thresholds are computed from them.
      options: operator, strength, layers, gate and scope.
      origin: JSON-ready facts of the extraction: hashes of weights and anchors, estimator, template, versions.
    """

    directions: Directions
    gate_LD: np.ndarray
    scores: gates.AnchorScores
    options: GuardOptions
    origin: dict[str, Any]

    def using(self, rank: int = 0, **changes: Any) -> "Guard":
        """The same guard with other options.

            guard.using(operator="add", strength=0.5, scope="last")

        Args:
          rank: keeps that many directions, the first ones; 0 keeps all.
          changes: fields of `GuardOptions`.

        Raises:
          InputError: the guard has fewer directions, or the options do not fit together.
        """
        found, guard = self.directions.basis_LMD.shape[1], self
        if rank > found:
            raise InputError(f"the guard has {found} direction(s), not {rank}; extract it with --rank={rank}")
        if rank:
            guard = dataclasses.replace(
                self, directions=self.directions.first(rank), origin={**self.origin, "rank": rank}
            )
        return dataclasses.replace(guard, options=dataclasses.replace(self.options, **changes))

    def threshold_L(self) -> np.ndarray:
        """The gate's threshold per layer, float [L]. A gate that reads the text alone knows the text scores only."""
        scores = self.scores
        if self.options.gate_source == "text":
            scores = gates.AnchorScores(scores.harmful_LN, scores.harmless_LN)
        return gates.thresholds(self.options.gate, scores, self.options.fpr)

    def steer(self, model: Model) -> "Steer | SteerPerBatch":
        """What goes into `steer=` of the functions that answer questions.

        Returns:
          One `Steer` for every batch. A guard that needs a first pass gives a `SteerPerBatch` instead, which makes the
          `Steer` of a batch from its questions and images.
        """
        return SteerPerBatch(model, self) if self.options.needs_first_pass else self.as_steer()

    def as_steer(self, first_pass_LBD: np.ndarray | None = None) -> Steer:
        """The guard as the decoder applies it.

        Args:
          first_pass_LBD: float [L, B, D], the unsteered last-token states of the batch. Needed where
            `options.needs_first_pass` says so, ignored otherwise.

        Raises:
          InputError: the states are needed and absent.
        """
        use, basis_LMD = self.options, self.directions.basis_LMD
        if use.needs_first_pass and first_pass_LBD is None:
            raise InputError(
                "this guard decides once per example, from a first pass that is not run here; "
                "extract one with --decide=layer and --component=token"
            )
        component_LBM = None
        if use.component == "adaptive":
            component_LBM = self._adaptive(first_pass_LBD)
        elif use.component != "token":
            component_LBM = np.einsum("lbd,lmd->lbm", np.asarray(first_pass_LBD, np.float64), basis_LMD)
        steer = operators.build(
            use.operator,
            basis_LMD,
            use.strength,
            use.layers,
            unit_L=self.unit_L(),
            component_LBM=component_LBM,
            norm_preserving=use.norm_preserving,
        ).replace(scope=use.scope, hide_image=use.hide_image)
        if use.gate == "none":
            return steer
        if use.gate == "linear":
            if self.origin.get("gate_rows") != LINEAR:
                raise InputError("gate linear needs rows of its own; extract the guard with --method=alpha_steer")
            return gates.per_layer(steer, self.threshold_L(), self.gate_LD).replace(linear=True)
        threshold_L = self.threshold_L()
        steer = gates.per_layer(steer, threshold_L, self.gate_LD)
        if use.decide == "layer":
            return steer
        layers = use.gate_layers or use.layers
        return gates.per_example(steer, first_pass_LBD, use.quorum, threshold_L=threshold_L, layers=layers)

    def _adaptive(self, first_pass_LBD: np.ndarray) -> np.ndarray:
        """AdaSteer's coefficient, mean over the gate layers, in units of the residual stream, [L, B, 1]."""
        fitted = self.origin.get("ada_steer")
        if fitted is None:
            raise InputError("component adaptive needs regressions; extract the guard with --method=ada_steer")
        found_LB = ada_steer.coefficients(fitted, self.directions.basis_LMD[:, 0], self.gate_LD, first_pass_LBD)
        read = list(self.options.gate_layers or self.options.layers)
        return (self.directions.gap_L()[:, None] * found_LB[read].mean(0))[:, :, None]

    def unit_L(self) -> np.ndarray:
        """Length of strength 1 of the operator `add`, float [L], in units of the residual stream."""
        return self.directions.gap_L() if self.options.unit == "gap" else np.asarray(self.origin["residual_norm_L"])

    def save(
        self,
        folder: str | Path,
        extra: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes the guard to a folder that `load_guard` reads. It replaces an earlier guard there.

        Args:
          extra: further keys of the folder's JSON, such as the scores of a selection.
          files: further files by name, such as a picture.
          arrays: further arrays by name.

        Raises:
          InputError: `folder` exists and is no guard.
        """
        fields = dataclasses.fields(Directions)
        stored = {**(arrays or {}), **{field.name: getattr(self.directions, field.name) for field in fields}}
        stored |= {name: value for name, value in vars(self.scores).items() if value is not None}
        stored["gate_LD"] = self.gate_LD
        stored["threshold_L"] = self.threshold_L()  # for other programs; recomputed from the scores on loading
        settings = dataclasses.asdict(self.options)
        guard_folder.write(folder, stored, {"settings": settings, "origin": self.origin, **(extra or {})}, files)

    def describe(self) -> str:
        """The options in one line, then a line per gate layer: how well its direction separates the anchors."""
        use, layers = self.options, ", ".join(map(str, self.options.layers))
        decided = f"decided per {use.decide}" + (" from the text alone" if use.gate_source == "text" else "")
        component = "" if use.component == "token" else f", component of the {use.component} prompt"
        what = f"{use.operator} {use.strength:g} at layers {layers}{component}"
        hidden = ", image hidden from the answer" if use.hide_image else ""
        erased = f" and from it without up to {use.erased_words} first words" if use.erased_words else ""
        lines = [f"{what}, scope {use.scope}{hidden}, gate {use.gate}, {decided}{erased}"]
        threshold_L = self.threshold_L()
        gap_L = self.scores.harmful_LN.mean(1) - self.scores.harmless_LN.mean(1)
        for layer in use.gate_layers or use.layers:
            row = self.origin["auroc_anchors"][layer]
            lines.append(
                f"  layer {layer}: anchors apart by {gap_L[layer]:.3g}, threshold {threshold_L[layer]:.3g}, "
                f"AUROC {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] (in sample)"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class SteerPerBatch:
    """A guard whose gate or component comes from a first pass: a function that makes the `Steer` of one batch.

    It runs the first pass on the prompts as they are or on their text alone, as the guard's options say. Prompt widths
    are rounded up to a few sizes, so that few programs are compiled.
    """

    model: Model
    guard: Guard

    @property
    def scope(self) -> str:
        """The positions that every batch's `Steer` writes."""
        return self.guard.options.scope

    def opens(self, questions: Sequence[str], contexts: Sequence[Context | None], batch_size: int) -> np.ndarray:
        """Whether the gate opens on each of these questions as text, bool [N], `batch_size` prompts at a time."""
        found = [np.zeros(0, bool)]
        for start in range(0, len(questions), batch_size):
            some, around = questions[start : start + batch_size], contexts[start : start + batch_size]
            filled = [*range(len(some)), *[0] * (batch_size - len(some))]  # one shape for all batches
            steer = self([some[k] for k in filled], None, [around[k] for k in filled])
            found.append(np.asarray(steer.gate_LB).any(0)[: len(some)])
        return np.concatenate(found)

    def __call__(
        self,
        questions: Sequence[str],
        images: Sequence[Sequence[np.ndarray]] | None = None,
        contexts: Sequence[Context | None] | None = None,
    ) -> Steer:
        """The `Steer` of these rows.

        Args:
          images: pixel arrays HWC per question, as in `Processor.pad`, or None.
          contexts: the conversation around every question, or None.
        """
        steer = self._decided(questions, images, contexts)
        for count in range(1, self.guard.options.erased_words + 1):
            shorter = [without_first(question, count) for question in questions]
            steer = steer.replace(gate_LB=steer.gate_LB | self._decided(shorter, images, contexts).gate_LB)
        return steer

    def _decided(
        self,
        questions: Sequence[str],
        images: Sequence[Sequence[np.ndarray]] | None,
        contexts: Sequence[Context | None] | None,
    ) -> Steer:
        """What a first pass over these prompts decides."""
        contexts = [None] * len(questions) if contexts is None else contexts
        if images is None or self.guard.options.first_pass_reads_text:
            images = [[]] * len(questions)
            contexts = [context and context.without_images() for context in contexts]
        prompts = zip(questions, images, contexts, strict=True)
        rows = [self.model.processor.prompt_ids(*prompt) for prompt in prompts]
        batch = self.model.processor.pad(rows, images, length=bucket(max(map(len, rows))))
        return self.guard.as_steer(batch_states(self.model, batch))


def load_guard(folder: str | Path, model: Model, allow_other_model: bool = False) -> Guard:
    """Reads a guard folder for `model`.

        guard = vlm_mu_jax.load_guard("runs/guard", model)

    Raises:
      InputError: the folder is missing or damaged, its shapes do not fit the model, or it was extracted from other
        weights or with another conversation template. `allow_other_model` accepts other weights and templates.
    """
    arrays, meta = guard_folder.read(folder)
    options = stored_options(folder, meta)
    try:
        directions = Directions(**{field.name: arrays[field.name] for field in dataclasses.fields(Directions)})
        gate_LD = arrays.get("gate_LD", directions.basis_LMD[:, 0])  # older guards had no other
        scores = gates.AnchorScores(**{name: value for name, value in arrays.items() if name.endswith("_LN")})
        guard = Guard(directions, gate_LD, scores, options, meta["origin"])
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
        _check_same_model(folder, model, weights, template)
    return guard


def open_guard(model: Model, folder: str | Path | None) -> tuple[Steer | SteerPerBatch | None, dict[str, str] | None]:
    """Opens a guard folder: what steers the model, and what identifies the guard in the files of a run.

    Args:
      model: the model that the guard was extracted from.
      folder: what `Guard.save` wrote, or None for no guard.

    Returns:
      (steer, {"folder": `folder`, "sha256": hash of its files}). `steer` goes into the argument of that name in the
      functions that answer questions. (None, None) without a folder.

    Raises:
      InputError: as `load_guard` does.
    """
    if folder is None:
        return None, None
    steer = load_guard(folder, model).steer(model)
    return steer, {"folder": str(folder), "sha256": folder_hash(folder)}


def _check_same_model(folder: str | Path, model: Model, weights: str, template: str) -> None:
    if template != model.processor.template:
        raise InputError(
            f"{folder} was made with conversation template {template!r}, the model uses "
            f"{model.processor.template!r}; extract again, or give --allow_other_model"
        )
    if weights != weights_hash(model.params) and weights != model.stored_sha256:  # changed weights keep the guard
        raise InputError(
            f"{folder} was extracted from other weights than {model.folder}; extract a guard from this "
            "model, or give --allow_other_model to use it all the same"
        )
