"""The recipes that bin/compare trains on a miniature: SFT baselines, and unlearning with every objective."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training of the comparison.

    Attributes:
      name: of its row in the table.
      config: name of the config and its argument, as --config takes it.
      start: the model that it starts from, in the quickstart's folder.
      baseline: whether it is one of those that unlearning is compared with.
      changes: what differs from the config, as config path -> value.
    """

    name: str
    config: str
    start: str = "base"
    baseline: bool = False
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


_UNLEARN = (
    "ga",
    "graddiff",
    "npo",
    "simnpo",
    "dpo",
    "idkdpo",
    "rmu",
    "adaptive_rmu",
    "rr",
    "undial",
    "ceu",
    "wga",
    "satimp",
    "pdu",
)
_SFT = ("posthoc", "mixed", "diverse", "unsafe_filter")

RECIPES = (
    *(Recipe(f"sft_{variant}", f"miniature_sft:{variant}", baseline=True) for variant in _SFT),
    *(Recipe(name, f"miniature_unlearn:{name}") for name in _UNLEARN),
    # against relearning: forgetting deeper, at the nearest weights where it is worst, along an attacker's steps, and
    # under an attacker in the residual stream
    Recipe("npo_deep", "miniature_unlearn:npo", changes={"objective.beta": 0.3}),
    Recipe("npo_sam", "miniature_unlearn:npo", changes={"robust.kind": "sam", "robust.length": 1.0}),
    Recipe(
        "npo_tamper",
        "miniature_unlearn:npo",
        changes={"robust.kind": "tamper", "robust.length": 0.3, "robust.steps": 4, "forget_batch_size": 8},
    ),
    Recipe(
        "npo_tamper_sign",
        "miniature_unlearn:npo",
        changes={
            "robust.kind": "tamper",
            "robust.attacker": "sign",
            "robust.length": 0.3,
            "robust.steps": 8,
            "objective.retain_weight": 15.0,  # 5 costs harmless answers behind the worst words, 50 resists less
            "forget_batch_size": 8,
        },
    ),
    Recipe(
        "npo_latent",
        "miniature_unlearn:npo",
        changes={
            "robust.kind": "latent",
            "robust.length": 2.0,
            "robust.steps": 6,
            "robust.layers": (1, 2),
            "forget_batch_size": 8,
        },
    ),
    Recipe("npo_after_sft", "miniature_unlearn:npo", start="sft/model"),
    Recipe("rmu_after_sft", "miniature_unlearn:rmu", start="sft/model"),
)
