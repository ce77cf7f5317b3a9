"""What a training says about its steps, on stderr."""

import dataclasses
import sys
import time
from collections.abc import Mapping

SPEED = ("learning_rate", "seconds", "tokens_per_second", "goodput", "mfu")  # metrics that are no results


class StepLog:
    """Prints a line for a row of metrics, unless it has just printed one; the last step is always printed."""

    def __init__(self, steps: int, every_seconds: float = 10.0) -> None:
        self._steps, self._every, self._shown = steps, every_seconds, -every_seconds

    def __call__(self, row: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self._shown >= self._every or row["step"] == self._steps:
            self._shown = now
            print(line(row, self._steps), file=sys.stderr, flush=True)


def line(row: Mapping[str, float], steps: int) -> str:
    """MFU is left out where the device's peak is not known."""
    parts = [
        f"step {row['step']:.0f}/{steps}",
        f"loss {row['loss']:.4g}",
        f"{row['seconds']:.3g} s/step",
        f"{row['tokens_per_second']:,.0f} tokens/s",
        f"MFU {100 * row['mfu']:.1f} %" if "mfu" in row else "",
        f"goodput {100 * row['goodput']:.0f} %",
    ]
    return "  ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class EvaluationLog:
    """Prints a line for an evaluation of a training of so many steps."""

    steps: int

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        print(evaluation_line(step, self.steps, values), file=sys.stderr, flush=True)


def evaluation_line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """The console line of one evaluation inside training; values: `evaluation.results.frontier.rates`."""
    names = {"asr": "ASR", "harmless_right": "harmless right", "rr": "harmless refused", "utility": "utility"}
    shown = [f"{title} {100 * values[name]:.0f} %" for name, title in names.items() if name in values]
    if "frontier" in values:
        shown.append(f"frontier {values['frontier']:.3f}")
    return f"evaluation after step {step}/{steps}  " + "  ".join(shown)
