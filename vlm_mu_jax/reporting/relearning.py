"""Files of the relearning attack: the curve with its figure, and the table and figures over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.evaluation.results import comparison
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.outputs import write_text
from vlm_mu_jax.reporting.figures import canvas, training
from vlm_mu_jax.training.relearning import RelearnResult


def write(workdir: Path, found: RelearnResult, *, name: str, what: str, settings: Mapping[str, Any]) -> None:
    """Writes relearn.json and relearn.svg.

    Args:
      found: the curve.
      name: what the curve is called.
      what: the data that the attacker trained on, in words.
      settings: how the attacker trained.
    """
    about = {"schema": 1, "label": f"{name}, {what}", "name": name, "what": what, "settings": settings}
    content = {**about, **found.to_dict()}
    write_json(workdir / "relearn.json", content)
    write_text(workdir / "relearn.svg", canvas.standalone(training.relearning([content])))


def write_over_seeds(out: Path, curves: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Writes relearning.md, whose table is returned, and relearning_seedS.svg for every seed.

    Args:
      curves: seed -> contents of relearn.json, in the same order for every seed.
    """
    for seed, found in curves.items():
        write_text(out / f"relearning_seed{seed}.svg", canvas.standalone(training.relearning(found)))
    table = comparison.relearning_table(curves)
    write_text(out / "relearning.md", table + "\n")
    return table
