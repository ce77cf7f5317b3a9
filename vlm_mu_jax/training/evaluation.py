"""Evaluation while training: when it is due, which step is the best, and when to stop early.

All decisions follow from the results so far, which stand in `evaluations.jsonl`. A resumed run reads them and decides
as the first one did.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import lines
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.formats.reading import read_lines
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel import distributed

FILE = "evaluations.jsonl"


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What is measured while training, and what follows from it.

    Attributes:
      evaluate: (updates done, parameters) -> {name: number}. Adapters are merged in the parameters. With several
        processes all call it together, and the numbers of process 0 count.
      every: updates between evaluations. The last step is always evaluated.
      best: "metric:max" or "metric:min". The checkpoint of the best evaluation is kept, and training returns its
        weights; of equal ones the first counts. None returns the last weights.
      patience: training stops after this many evaluations in a row that brought nothing better. None never stops it.
    """

    evaluate: Callable[[int, Params], Mapping[str, float]]
    every: int
    best: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"evaluation: every must be at least 1, not {self.every}")
        if self.best is not None and self.best.rpartition(":")[2] not in ("max", "min"):
            raise InputError(f"evaluation: best must be METRIC:max or METRIC:min, not {self.best!r}")
        if self.patience is not None and (self.best is None or self.patience < 1):
            raise InputError("evaluation: patience must be at least 1 and needs best, the metric it watches")


class EvaluationHistory:
    """The evaluations of a run so far."""

    def __init__(self, plan: EvaluationPlan | None, workdir: Path | None, start: int) -> None:
        """start: updates done before; later results in the file are of a run that was killed, and are made again."""
        self._plan = plan
        self._file = None if workdir is None or plan is None else workdir / FILE
        metric = ((plan and plan.best) or "").rpartition(":")[0]
        rows = [row for row in _read(self._file, metric) if row["step"] <= start] if distributed.first() else []
        self._rows: list[dict] = distributed.from_first(rows)
        if self._file is not None and distributed.first():
            with complete_file(self._file) as partial:
                partial.write_text("".join(f"{json.dumps(row)}\n" for row in self._rows), encoding="utf-8")

    def due(self, step: int, steps: int) -> bool:
        """Whether the state after `step` of `steps` updates is still to be evaluated."""
        plan = self._plan
        wanted = plan is not None and step > 0 and (step % plan.every == 0 or step == steps)
        return wanted and all(row["step"] != step for row in self._rows)

    def measure(self, step: int, params: Params) -> dict[str, float]:
        """Evaluates and remembers. A number that is not finite is left out.

        Raises:
          JobError: the metric that decides is missing or not finite.
        """
        values = {name: float(value) for name, value in self._plan.evaluate(step, params).items()}
        values = distributed.from_first(values)
        metric = (self._plan.best or "").rpartition(":")[0]
        if metric and not math.isfinite(values.get(metric, math.nan)):
            raise JobError(f"the evaluation after step {step} gave no finite {metric!r}, only {values}")
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._rows.append({"step": step, **values})
        if self._file is not None and distributed.first():
            lines.append(self._file, [json.dumps(self._rows[-1])])
        return values

    @property
    def rows(self) -> tuple[dict[str, float], ...]:
        """All results so far, {"step": updates done, name: number}."""
        return tuple(dict(row) for row in self._rows)

    @property
    def best_step(self) -> int | None:
        """The step of the best result; None without a rule or a result."""
        if self._plan is None or self._plan.best is None or not self._rows:
            return None
        metric, _, direction = self._plan.best.rpartition(":")
        sign = 1 if direction == "max" else -1
        return max(self._rows, key=lambda row: (sign * row[metric], -row["step"]))["step"]

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations in a row brought nothing better."""
        if self._plan is None or self._plan.patience is None or not self._rows:
            return False
        return sum(row["step"] > self.best_step for row in self._rows) >= self._plan.patience


def _read(file: Path | None, metric: str) -> list[dict[str, float]]:
    """Complete lines; one cut short by a crash is made again. InputError for a line without `metric`, "" for none."""
    rows = read_lines(file, dict[str, float]) if file is not None and file.is_file() else []
    for needed in filter(None, ("step", metric)):
        if any(needed not in row for row in rows):
            raise InputError(f"{file}: a line has no {needed!r}; use another workdir, or delete the file")
    return rows
