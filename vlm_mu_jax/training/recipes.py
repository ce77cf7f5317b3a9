"""The recipes that bin/compare trains on a miniature: SFT baselines, and unlearning with every objective."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training of the comparison.

    Attributes:
      name: of its row in the table.
      config: name of the config and its argument, as --config takes it.
      start: the model that it starts from, in the quickstart's folder.
      baseline: whether it is one of those that unlearning is compared with.
    """

    name: str
    config: str
    start: str = "base"
    baseline: bool = False


_UNLEARN = (
    "ga",
    "graddiff",
    "npo",
    "simnpo",
    "dpo",
    "idkdpo",
    "rmu",
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
    Recipe("npo_after_sft", "miniature_unlearn:npo", start="sft/model"),
    Recipe("rmu_after_sft", "miniature_unlearn:rmu", start="sft/model"),
)
