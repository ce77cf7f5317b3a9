"""What an image does to the safety directions of a model: VLM-Guard's Figure 2 and the numbers behind it.

For every request three prompts are run: its text alone, with a blank image, with its own image. Reported are a joint
PCA of the last-token states at one layer, and per layer the AUROC with which the *text-only* safety direction tells
harmful from harmless in each condition, with a 95 % interval, and how far the image moves the class means.
"""

import numpy as np

from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.directions import Directions, auroc_per_layer
from vlm_mu_jax.steering.states import LOCATION, POSITION, Progress, last_token_states

CONDITIONS = ("text", "blank", "own")


def condition_states(
    model, requests: Records, blank_HWC: np.ndarray | None, *, batch_size: int = 16, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """States [L, N, D] by condition; without vision only "text", and "own" only when every request has an image."""
    questions = [request.question for request in requests]
    images: dict[str, list | None] = {"text": None}
    if model.config.vision is not None:
        images["blank"] = [blank_HWC] * len(requests)
        if all(request.image is not None for request in requests):
            images["own"] = [model.processor.pixels(requests.image_path(request)) for request in requests]
    return {
        name: last_token_states(
            model, questions, pixels, batch_size=batch_size, progress=progress, label=f"states, {name}"
        )
        for name, pixels in images.items()
    }


def diagnose(states: dict[str, np.ndarray], requests: Records, directions: Directions, layer: int) -> dict:
    """The whole of diagnostics.json. Raises InputError when one kind of request is missing or `layer` is no layer.

    pca: {"layer", "explained", "points": [{"x", "y", "kind", "condition", "id"}]}. auroc: {condition: [value per
    layer]}, auroc_interval: {condition: [[low, high] per layer]}. mean_score: projections of the class means.
    within_cosine: cosine per layer between the text-only direction and the condition's own difference of means.
    """
    harmful_N = np.array([request.kind == "unsafe" for request in requests])
    if harmful_N.all() or not harmful_N.any():
        raise InputError("diagnosis needs both unsafe and safe requests in the data file")
    depth = len(next(iter(states.values())))
    if not 0 <= layer < depth:
        raise InputError(f"layer {layer} is outside this model; it has layers 0..{depth - 1}")
    scores = {name: directions.scores(states_LND) for name, states_LND in states.items()}
    rows = {name: auroc_per_layer(s[:, harmful_N], s[:, ~harmful_N]) for name, s in scores.items()}
    return {
        "location": LOCATION,
        "position": POSITION,
        "n": {"harmful": int(harmful_N.sum()), "harmless": int((~harmful_N).sum())},
        "pca": _pca_points({name: s[layer] for name, s in states.items()}, requests, layer),
        "auroc": {name: [row["value"] for row in per_layer] for name, per_layer in rows.items()},
        "auroc_interval": {name: [[row["low"], row["high"]] for row in per_layer] for name, per_layer in rows.items()},
        "mean_score": {
            name: {"harmful": s[:, harmful_N].mean(1).tolist(), "harmless": s[:, ~harmful_N].mean(1).tolist()}
            for name, s in scores.items()
        },
        "within_cosine": {name: _within_cosine(s, harmful_N, directions) for name, s in states.items()},
    }


def joint_pca(states_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal coordinates [N, 2] of centred states and the share of variance of each [2].

    The sign of an axis is fixed by its largest loading, so that the same states always give the same picture.
    """
    centred_ND = np.asarray(states_ND, np.float64) - states_ND.mean(0, dtype=np.float64)
    _, values, rows = np.linalg.svd(centred_ND, full_matrices=False)
    rows = rows[:2] * np.sign(rows[:2, np.abs(rows[:2]).argmax(1)].diagonal())[:, None]
    return centred_ND @ rows.T, values[:2] ** 2 / max((values**2).sum(), 1e-30)


def _pca_points(states: dict[str, np.ndarray], requests: Records, layer: int) -> dict:
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


def _within_cosine(states_LND: np.ndarray, harmful_N: np.ndarray, directions: Directions) -> list[float]:
    difference_LD = states_LND[:, harmful_N].mean(1, dtype=np.float64) - states_LND[:, ~harmful_N].mean(
        1, dtype=np.float64
    )
    norms_L = np.maximum(np.linalg.norm(difference_LD, axis=1), 1e-30)
    return (np.einsum("ld,ld->l", difference_LD, directions.basis_LMD[:, 0]) / norms_L).tolist()
