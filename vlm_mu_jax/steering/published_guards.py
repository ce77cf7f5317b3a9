"""Published guards by name, as an estimator of the direction and options of this guard.

What a paper leaves open keeps our default. Layers are the user's to choose: the papers give them for one model each
(ShiftDC steers LLaVA-1.5-7B at 10-31, TBOP at one late layer). One reading differs from the papers: the component of a
prompt is that of an unsteered first pass.
"""

from typing import Any

from vlm_mu_jax.errors import InputError

_EVERYWHERE = {"gate": "none", "scope": "all"}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    # VLM-Guard (arXiv 2502.10486) step 3, h* = h + alpha g h(q) V^T V, g = [h V_1 > 0] per layer; q: last input token
    "vlm_guard": ("svd", {"operator": "amplify", "gate": "zero", "scope": "all", "component": "self", "strength": 1.0}),
    # its step 3 with q the text-only query
    "vlm_guard_text": (
        "svd",
        {
            "operator": "amplify",
            "gate": "zero",
            "scope": "all",
            "component": "text",
            "strength": 1.0,
            "decide": "example",
            "gate_source": "text",
        },
    ),
    # its step 2: h' = h - h V^T V
    "vlm_guard_projection": ("svd", {"operator": "project_out", "strength": -1.0, **_EVERYWHERE}),
    # refusal_direction (Arditi et al. 2024): activation addition, directional ablation
    "activation_addition": ("means", {"operator": "add", "strength": 1.0, **_EVERYWHERE}),
    "directional_ablation": ("means", {"operator": "ablate", "strength": -1.0, **_EVERYWHERE}),
    # CMRM (arXiv 2410.09047), data-set level: h - alpha * mean(h(x, blank) - h(x))
    "cmrm": ("image_shift", {"operator": "add", "strength": -1.0, **_EVERYWHERE}),
    # ShiftDC (arXiv 2502.13095): the image's shift along the safety direction is taken back at the last prompt token;
    # the text stands in for text and caption
    "shiftdc": (
        "means",
        {"operator": "transplant", "component": "text", "strength": 1.0, "gate": "none", "scope": "last"},
    ),
    # TBOP (arXiv 2603.14825): h - h B^T B at the last prompt token, B spans what a blank image adds
    "tbop": ("image_shift", {"operator": "project_out", "strength": -1.0, "gate": "none", "scope": "last"}),
    # AlphaSteer (arXiv 2506.07022): h + alpha (h w) r in the prompt, w fitted in the null space of benign states; on
    # the miniature's validation requests 4 refused most without a harmless answer lost
    "alpha_steer": ("means", {"operator": "add", "gate": "linear", "scope": "prompt", "strength": 4.0}),
    # AdaSteer (arXiv 2504.09466): h + alpha (p_r + p_d - 1) R in the prompt, p from two logistic regressions
    "ada_steer": (
        "lost_refusal",
        {"operator": "amplify", "component": "adaptive", "gate": "none", "scope": "prompt", "strength": 1.0},
    ),
    # NullSteer (arXiv 2603.22094): amplify within the null space of benign states
    "null_steer": ("null_space", {"operator": "amplify", "strength": 1.0, **_EVERYWHERE}),
}


def published(method: str) -> tuple[str, dict[str, Any]]:
    """Estimator of a published guard, and the fields of `GuardOptions` that it sets.

    Raises InputError on an unknown name.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[method]
