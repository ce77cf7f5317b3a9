"""Extraction: from anchor texts to a guard with default settings."""

import hashlib
from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import artifact, gates, operators
from vlm_mu_jax.steering.anchors import Anchors
from vlm_mu_jax.steering.directions import Directions, auroc_per_layer, difference_of_means
from vlm_mu_jax.steering.estimators import PAIRED, estimate
from vlm_mu_jax.steering.guard import Guard, Settings
from vlm_mu_jax.steering.states import LOCATION, POSITION, Progress, last_token_states
from vlm_mu_jax.storage.identity import weights_hash


def extract(
    model,
    anchors: Anchors,
    *,
    rank: int = 1,
    estimator: str = "svd",
    llm=None,
    position: int = -1,
    blank_HWC: np.ndarray | None = None,
    benign: Sequence[str] = (),
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Guard:
    """Directions from text-only anchors, through the model's conversation template, as a guard of `model`.

    The guard starts with the default settings at the middle third of the layers.

    Args:
      estimator, rank: see `steering.estimators`.
      llm: another model of the same depth and width whose language tower the directions come from (for example the
        language model that a VLM was built on); None = the model's own. Thresholds always come from `model`.
      position: prompt token that directions are read from, -1 = the last one. Gates read the last one in any case.
      blank_HWC: pixels of a blank image; the anchors are also scored with it, so that thresholds can be calibrated for
        prompts that hold an image.
      benign: further harmless texts, of the kinds a model is asked every day. They are unlike the anchors in more than
        harm, so the directions do not see them; the gate does: it then projects on the discriminant (LDA) of the
        harmful anchors against both, and its thresholds count both.

    Raises InputError on anchors that give no direction, single anchors for an estimator of pairs, and an llm that
    does not fit.
    """
    if estimator in PAIRED and not anchors.paired:
        raise InputError(f"estimator {estimator} needs pairs of anchors, these are single texts; use --estimator=means")
    if llm is not None:
        _check_llm(model, llm, estimator)
    questions, count = [*anchors.harmful, *anchors.harmless, *benign], len(anchors.harmful)
    end = count + len(anchors.harmless)

    def read(of, label: str, images=None, at: int = -1) -> np.ndarray:
        return last_token_states(of, questions, images, batch_size=batch_size, progress=progress, label=label, at=at)

    text_LND = read(model, "anchors, text only")
    blank_LND = None if blank_HWC is None else read(model, "anchors, blank image", [blank_HWC] * len(questions))
    source_LND, with_image_LND = text_LND, blank_LND
    if llm is not None or position != -1:
        source_LND = read(llm or model, "anchors, for the direction", at=position)
        if estimator == "image_shift" and blank_HWC is not None:
            with_image_LND = read(model, "anchors, blank image", [blank_HWC] * len(questions), at=position)
    classes = source_LND[:, :count], source_LND[:, count:end]
    blank_LKD = None if with_image_LND is None else with_image_LND[:, :end]
    directions = estimate(estimator, *classes, rank=rank, blank_LKD=blank_LKD)
    gate_LD = _gate(estimator, directions, classes, text_LND, count, end)
    scores = _anchor_scores(gate_LD, text_LND, blank_LND, count)
    origin = _origin(model, anchors, rank, estimator, llm, position) | {
        "benign": {"texts": len(benign), "sha256": hashlib.sha256("\n".join(benign).encode()).hexdigest()},
        "auroc_anchors": auroc_per_layer(scores.harmful_LN, scores.harmless_LN),  # in sample: a check, not a claim
        "residual_norm_L": np.linalg.norm(text_LND, axis=-1).mean(1).tolist(),
    }
    layers = operators.parse_layers("middle", model.config.text.L)
    return Guard(directions, gate_LD, scores, Settings(layers=layers), origin)


def _gate(estimator: str, directions: Directions, classes, text_LND: np.ndarray, count: int, end: int) -> np.ndarray:
    """What the gate projects on, [L, D]."""
    if end < text_LND.shape[1]:
        return estimate("lda", text_LND[:, :count], text_LND[:, count:]).basis_LMD[:, 0]
    # An image's shift tells nothing about harm: the gate keeps to the classes.
    return (difference_of_means(*classes) if estimator == "image_shift" else directions).basis_LMD[:, 0]


def _check_llm(model, llm, estimator: str) -> None:
    ours, theirs = model.config.text, llm.config.text
    if (ours.L, ours.D) != (theirs.L, theirs.D):
        raise InputError(
            f"{llm.folder} has {theirs.L} layers of width {theirs.D}, the guarded model {ours.L} of width {ours.D}; "
            "a direction fits models of one shape only"
        )
    if estimator == "image_shift":
        raise InputError("estimator image_shift compares the model with itself; leave out --llm")


def _anchor_scores(gate_LD: np.ndarray, text_LND, blank_LND, count: int) -> gates.AnchorScores:
    def split(states_LND) -> list:
        if states_LND is None:
            return [None, None]
        scores_LN = np.einsum("lnd,ld->ln", np.asarray(states_LND, np.float64), gate_LD)
        return [scores_LN[:, :count], scores_LN[:, count:]]

    return gates.AnchorScores(*split(text_LND), *split(blank_LND))


def _origin(model, anchors: Anchors, rank: int, estimator: str, llm, position: int) -> dict:
    return {
        "weights_sha256": weights_hash(model.params),
        "direction_weights_sha256": weights_hash((llm or model).params),
        "anchors_sha256": anchors.sha256,
        "anchors": {"harmful": len(anchors.harmful), "harmless": len(anchors.harmless), "paired": anchors.paired},
        "estimator": estimator,
        "rank": rank,
        "sign_rule": "every row points to the side of the harmful anchors (image_shift: of the image) on average",
        "location": LOCATION,
        "position": POSITION if position == -1 else f"prompt_token_{position}",
        "source": "own language tower, text only" if llm is None else f"language tower of {llm.folder}, text only",
        "template": model.processor.template,
        "layers_of_model": model.config.text.L,
        "width_of_model": model.config.text.D,
        "versions": artifact.versions(),
    }
