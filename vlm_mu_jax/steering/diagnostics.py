"""What an image does to the safety directions of a model: VLM-Guard's Figure 2 and the numbers behind it.

Every request is run under several conditions: its text alone, with blank images of several kinds, with its own image.
The last-token states [L, N, D] of these conditions give:

- A joint PCA of all conditions at one layer.
- Per layer, the AUROC with which the *text-only* direction tells harmful from harmless in each condition. Beside it
  stands the AUROC of a direction fitted anew inside the condition. The first falls when an image rotates the direction
  away. The second falls only when the condition itself no longer holds the difference.
- How far an image moves the class means along the direction, and what that does to a gate with the threshold of text.
- The cosine of the language model's direction (text alone) with that of every condition, beside what chance takes.

Source: VLM-Guard (arXiv 2502.10486), Figures 1 and 2; layer, token and fit set of the latter are not published.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.data.images import BLANK_KINDS
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.data.rendering import contexts_of
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.auroc import auroc_per_layer
from vlm_mu_jax.steering.directions import Directions
from vlm_mu_jax.steering.gates import rates
from vlm_mu_jax.steering.hidden_states import LOCATION, POSITION, last_token_states
from vlm_mu_jax.steering.shapes import check_shapes
from vlm_mu_jax.storage.model_folder import Model

_FOLDS = 5
_HALVINGS = 20

States = Mapping[str, np.ndarray]  # condition -> [L, N, D]


def condition_states(
    model: Model,
    requests: Records,
    blank_HWC: np.ndarray | None,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """States [L, N, D] by condition.

    A model without vision has the condition "text" alone. "own" is there when every request has an image. A request in
    a conversation is the question it is `at`, behind the earlier turns: in words alone but for "own", with the blank
    image in front of the question.
    """
    images: dict[str, list | None] = {"text": None}
    if model.config.vision is not None:
        images["blank"] = [blank_HWC] * len(requests)
        if all(request.images for request in requests):
            images["own"] = pixels_of(model, requests)
    return _states(model, requests, images, batch_size, progress)


def pixels_of(model: Model, records: Records) -> list[list]:
    """What the processor makes of all images of every record, in order."""
    read, together = model.processor.pixels, model.processor.together
    return [[read(image) for image in together(records.image_paths(record))] for record in records]


def blank_states(
    model: Model,
    requests: Records,
    kinds: Sequence[str] = BLANK_KINDS,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """States [L, N, D] by kind of blank image, for `stress`. Empty for a model without vision."""
    if model.config.vision is None:
        return {}
    images = {kind: [model.processor.blank_pixels(kind)] * len(requests) for kind in kinds}
    return _states(model, requests, images, batch_size, progress)


def _states(
    model: Model, requests: Records, images: Mapping[str, list | None], batch_size: int, progress: Progress | None
) -> dict[str, np.ndarray]:
    questions = [request.question for request in requests]
    how: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    found = {}
    for name, pixels in images.items():
        contexts = contexts_of(requests, None if name == "own" else int(pixels is not None))
        found[name] = last_token_states(model, questions, pixels, **how, label=f"states, {name}", contexts=contexts)
    return found


def diagnose(states: States, requests: Records, directions: Directions, layer: int) -> dict:
    """What the conditions show.

    Args:
      states: of `condition_states`.
      layer: the layer of the PCA.

    Returns:
      These keys. Lists have one value per layer.
        pca: {"layer", "explained", "points": [{"x", "y", "kind", "condition", "id"}]}.
        auroc, auroc_interval: {condition: [value]} and {condition: [[low, high]]} along the given directions.
        auroc_refit, auroc_refit_interval: the same along a difference of means fitted in the condition itself. Every
          request is scored by a direction that has not seen it.
        mean_score: {condition: {"harmful", "harmless"}}, projections of the class means.
        gate: {condition: {"tpr", "fpr"}} of a gate at the midpoint of the text-only anchors.
        within_cosine: {condition: [cosine]} of the given directions with the condition's own difference of means.
        cosine: see `cosines`.

    Raises:
      InputError: one kind of request is missing, or `layer` is no layer.
    """
    harmful_N = kinds_of(requests)
    depth = len(next(iter(states.values())))
    if not 0 <= layer < depth:
        raise InputError(f"layer {layer} is outside this model; it has layers 0..{depth - 1}")
    found = {
        "location": LOCATION,
        "position": POSITION,
        "n": {"harmful": int(harmful_N.sum()), "harmless": int((~harmful_N).sum())},
        "pca": _pca_points({name: s[layer] for name, s in states.items()}, requests, layer),
    }
    rows = {name: _separation(s, harmful_N, directions) for name, s in states.items()}
    for key in ("auroc", "auroc_interval", "auroc_refit", "auroc_refit_interval", "mean_score", "gate"):
        found[key] = {name: row[key] for name, row in rows.items()}
    found["within_cosine"] = {
        name: _cosine(_difference(s, harmful_N), directions.basis_LMD[:, 0]).tolist() for name, s in states.items()
    }
    return found | {"cosine": cosines(states, harmful_N)}


def stress(blanks: States, text_LND: np.ndarray, requests: Records, directions: Directions) -> dict:
    """Every kind of blank image against the text alone.

    Returns:
      {kind: AUROCs and gate rates as in `diagnose`, and "shift"}. shift is {"harmful", "harmless"}: how far the image
      moves the class mean along the direction, per layer. Its unit is the distance between the two means of the
      text-only anchors: -1 takes a harmful prompt to where the harmless ones were.
    """
    harmful_N = kinds_of(requests)
    gap_L = np.maximum(directions.gap_L(), 1e-30)
    before = _class_means(directions.scores(text_LND), harmful_N)
    found = {}
    for kind, states_LND in blanks.items():
        after = _class_means(directions.scores(states_LND), harmful_N)
        shift = {name: ((after[name] - before[name]) / gap_L).tolist() for name in before}
        found[kind] = _separation(states_LND, harmful_N, directions) | {"shift": shift}
    return found


def cosines(states: States, harmful_N: np.ndarray, llm_LND: np.ndarray | None = None) -> dict[str, list[float]]:
    """Cosine per layer of the text-only difference of means (the language model's direction) with those of others.

    Args:
      llm_LND: states of the same requests in another language model.

    Returns:
      Lists by key. Every other condition: the direction of the whole VLM there. "llm": that of the other language
      model. "two_halves": the text-only direction of one random half of the requests with that of the other half, mean
      of 20 draws. It shows what other requests alone take off 1. Conditions share their requests and can stay above it.
      It is absent below two requests of a kind.

    Raises:
      InputError: the other language model has another depth or width.
    """
    text_LND = states["text"]
    reference_LD = _difference(text_LND, harmful_N)
    others = {name: s for name, s in states.items() if name != "text"}
    if llm_LND is not None:
        if llm_LND.shape != text_LND.shape:
            raise InputError(
                f"the other language model has {len(llm_LND)} layers of width {llm_LND.shape[2]}, this one "
                f"{len(text_LND)} of width {text_LND.shape[2]}; directions compare between equal shapes only"
            )
        others["llm"] = llm_LND
    found = {name: _cosine(reference_LD, _difference(s, harmful_N)).tolist() for name, s in others.items()}
    if min(harmful_N.sum(), (~harmful_N).sum()) > 1:
        found["two_halves"] = _two_halves(text_LND, harmful_N).tolist()
    return found


def kinds_of(requests: Records) -> np.ndarray:
    """Whether each request is harmful, bool [N]. Raises InputError when there is only one kind."""
    harmful_N = np.array([request.kind == "unsafe" for request in requests], bool)
    if harmful_N.all() or not harmful_N.any():
        raise InputError("diagnosis needs both unsafe and safe requests in the data file")
    return harmful_N


def joint_pca(states_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal coordinates [N, 2] of centred states, and the share of variance of each [2].

    The sign of an axis is fixed by its largest loading, so that the same states always give the same picture.
    """
    check_shapes(states_ND=states_ND)
    centred_ND = np.asarray(states_ND, np.float64) - states_ND.mean(0, dtype=np.float64)
    _, values, rows = np.linalg.svd(centred_ND, full_matrices=False)
    rows = rows[:2] * np.sign(rows[:2, np.abs(rows[:2]).argmax(1)].diagonal())[:, None]
    return centred_ND @ rows.T, values[:2] ** 2 / max((values**2).sum(), 1e-30)


def _pca_points(states: States, requests: Records, layer: int) -> dict:
    points_N2, explained = joint_pca(np.concatenate(list(states.values())))
    labels = [(name, request) for name in states for request in requests]
    points = [
        {
            "x": float(x),
            "y": float(y),
            "kind": "harmful" if request.kind == "unsafe" else "harmless",
            "condition": name,
            "id": request.id,
        }
        for (x, y), (name, request) in zip(points_N2, labels, strict=True)
    ]
    return {"layer": layer, "explained": explained.tolist(), "points": points}


def _separation(states_LND: np.ndarray, harmful_N: np.ndarray, directions: Directions) -> dict:
    """AUROCs, class means and rates of the text gate in one condition."""
    scores_LN = directions.scores(states_LND)
    held_LN = held_out_scores(states_LND, harmful_N)
    given, refit = (auroc_per_layer(s[:, harmful_N], s[:, ~harmful_N]) for s in (scores_LN, held_LN))
    tpr_L, fpr_L = rates(scores_LN[:, harmful_N], scores_LN[:, ~harmful_N], directions.midpoint_L())
    return {
        "auroc": [row["value"] for row in given],
        "auroc_interval": [[row["low"], row["high"]] for row in given],
        "auroc_refit": [row["value"] for row in refit],
        "auroc_refit_interval": [[row["low"], row["high"]] for row in refit],
        "mean_score": {name: value.tolist() for name, value in _class_means(scores_LN, harmful_N).items()},
        "gate": {"tpr": tpr_L.tolist(), "fpr": fpr_L.tolist()},
    }


def folds(harmful_N: np.ndarray) -> np.ndarray:
    """The fold of every request, int [N].

    A fold is a block of neighbours of each kind. The variants of one request usually stand together in a file, and a
    direction that has seen a request's twin has seen the request.
    """
    fold_N = np.empty(len(harmful_N), int)
    for kind_N in (harmful_N, ~harmful_N):
        at = np.flatnonzero(kind_N)
        fold_N[at] = np.arange(len(at)) * min(_FOLDS, len(at)) // len(at)
    return fold_N


def held_out_scores(states_LND: np.ndarray, harmful_N: np.ndarray) -> np.ndarray:
    """Score [L, N] of every request on the difference of means of the other `folds`; 0 is midway between the means."""
    fold_N = folds(harmful_N)
    scores_LN = np.zeros(states_LND.shape[:2])
    for fold in range(_FOLDS):
        held_N = fold_N == fold
        if not held_N.any() or not (harmful_N & ~held_N).any() or not (~harmful_N & ~held_N).any():
            continue  # too few requests to hold any out: their scores stay 0, which is chance
        mean = [states_LND[:, kind_N & ~held_N].mean(1, dtype=np.float64) for kind_N in (harmful_N, ~harmful_N)]
        unit_LD = _unit(mean[0] - mean[1])
        middle_LD = (mean[0] + mean[1]) / 2
        scores_LN[:, held_N] = np.einsum("lnd,ld->ln", states_LND[:, held_N] - middle_LD[:, None], unit_LD)
    return scores_LN


def _class_means(scores_LN: np.ndarray, harmful_N: np.ndarray) -> dict[str, np.ndarray]:
    return {"harmful": scores_LN[:, harmful_N].mean(1), "harmless": scores_LN[:, ~harmful_N].mean(1)}


def _two_halves(states_LND: np.ndarray, harmful_N: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    total_L = np.zeros(len(states_LND))
    for _ in range(_HALVINGS):
        half_N = np.zeros(len(harmful_N), bool)
        for kind_N in (harmful_N, ~harmful_N):
            at = rng.permutation(np.flatnonzero(kind_N))
            half_N[at[: len(at) // 2]] = True
        total_L += _cosine(*(_difference(states_LND[:, part_N], harmful_N[part_N]) for part_N in (half_N, ~half_N)))
    return total_L / _HALVINGS


def _difference(states_LND: np.ndarray, harmful_N: np.ndarray) -> np.ndarray:
    """Difference of means [L, D], harmful minus harmless."""
    harmful_LD, harmless_LD = (states_LND[:, kind_N].mean(1, dtype=np.float64) for kind_N in (harmful_N, ~harmful_N))
    return harmful_LD - harmless_LD


def _unit(vectors_LD: np.ndarray) -> np.ndarray:
    return vectors_LD / np.maximum(np.linalg.norm(vectors_LD, axis=1, keepdims=True), 1e-30)


def _cosine(a_LD: np.ndarray, b_LD: np.ndarray) -> np.ndarray:
    return np.einsum("ld,ld->l", _unit(a_LD), _unit(b_LD))
