"""Metrics of a run: fetched from the device every few steps, checked to be finite, written to JSONL and a tracker."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.files.json_file import parse_json
from vlm_mu_jax.files.outputs import complete_file, names_when_full
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.training import flops, trackers
from vlm_mu_jax.training.goodput import Goodput

EVERY = 10  # steps between fetches
AHEAD = 2  # steps that wait on the device; more would only use memory, and delay the stop after a SIGTERM

Log = Callable[[Mapping[str, float]], None]


class Recorder:
    """Collects device scalars per step, and fetches those of finished steps while the device runs the next ones.

    Every row of metrics also has these speeds, averaged since the fetch before:

      seconds             per step, waits for data included
      tokens_per_second   real tokens; padding is left out
      goodput             share of steps in the wall time so far
      mfu                 model FLOPs utilisation, on a chip whose peak is known, see training/flops.py
    """

    def __init__(
        self, workdir: Path | None, start: int, goodput: Goodput, log: Log | None = None, tracker: str = "tensorboard"
    ) -> None:
        """
        Args:
          workdir: where `metrics.jsonl` and the tracker's files go; None for nowhere.
          start: updates done before.
          goodput: the clock of the run's phases.
          log: called with the newest row at every fetch.
          tracker: see `trackers`.
        """
        self._devices: list[jax.Device] = []
        self._pending: list[tuple[int, dict[str, Any], dict[str, float]]] = []
        self._history: dict[str, list[float]] = {}
        self._goodput, self._log, self._clock = goodput, log, 0.0
        self._file = self._tracker = None
        if workdir is not None and distributed.first():
            file = workdir / "metrics.jsonl"
            _forget_after(file, start)
            self._file = file.open("a", encoding="utf-8")
            self._tracker = trackers.opened(tracker, workdir, start)

    def start(self, devices: list[jax.Device]) -> None:
        """Where the coming updates run. Time spent before the first one is not theirs."""
        if not self._devices:
            self._devices, self._clock = devices, self._busy()

    def add(self, step: int, metrics: dict[str, Any], known: dict[str, float]) -> None:
        """Metrics after update `step` (1-based); `known`: host numbers, among them "tokens" and its "flops"."""
        self._pending.append((step, metrics, known))
        if len(self._pending) > AHEAD:
            jax.block_until_ready(self._pending[-AHEAD - 1][1])
        if len(self._pending) >= EVERY + AHEAD:
            self._fetch(self._pending[:EVERY])

    def idle(self) -> bool:
        """Whether the device has finished every step it was given."""
        return not self._pending or all(x.is_ready() for x in jax.tree.leaves(self._pending[-1][1]))

    def flush(self) -> None:
        """Fetches all that is pending, and waits for it.

        Raises:
          JobError: a metric is not finite; nothing of a step after it was saved.
        """
        self._fetch(self._pending)

    def history(self) -> dict[str, np.ndarray]:
        """Every metric of this process's steps, in order."""
        return {name: np.array(values) for name, values in self._history.items()}

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Results of an evaluation, for the tracker."""
        if self._tracker is not None:
            self._tracker.add(step, {f"evaluation/{name}": value for name, value in values.items()})

    def _fetch(self, some: list[tuple[int, dict[str, Any], dict[str, float]]]) -> None:
        if not some:
            return
        fetched = jax.device_get([metrics for _, metrics, _ in some])
        self._pending = self._pending[len(some) :]
        speed = self._speed(some)
        for (step, _, known), values in zip(some, fetched, strict=True):
            known = {name: value for name, value in known.items() if name not in ("tokens", "flops")}
            row = {"step": step, **{k: float(v) for k, v in values.items()}, **known, **speed}
            _check_finite(row)
            self._write(row)
        if self._file is not None:
            with names_when_full(self._file.name):
                self._file.flush()
        if self._log is not None:
            self._log(row)

    def _speed(self, some: list[tuple[int, dict[str, Any], dict[str, float]]]) -> dict[str, float]:
        now = self._busy()
        seconds, self._clock = max(now - self._clock, 1e-9) / len(some), now
        tokens, work = (sum(known[name] for _, _, known in some) / len(some) for name in ("tokens", "flops"))
        speed = {"seconds": seconds, "tokens_per_second": tokens / seconds, "goodput": self._goodput.share()}
        used = flops.mfu(work, seconds, self._devices) if self._devices else None
        return speed if used is None else {**speed, "mfu": used}

    def _busy(self) -> float:
        seconds = self._goodput.seconds()
        return seconds["step"] + seconds["data"]

    def _write(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            self._history.setdefault(name, []).append(value)
        if self._file is None or self._tracker is None:
            return
        self._file.write(json.dumps(row) + "\n")
        self._tracker.add(int(row["step"]), {f"train/{name}": value for name, value in row.items() if name != "step"})

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._tracker is not None:
            with names_when_full(self._file.name):
                self._file.close()
            self._tracker.close()


def _check_finite(row: dict[str, float]) -> None:
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        values = ", ".join(f"{name} {row[name]}" for name in bad)
        raise JobError(
            f"training stopped at step {int(row['step'])}: not finite: {values}; "
            "lower optim.learning_rate, set optim.clip, or look for broken weights or pixels",
            everywhere=True,
        )


def _forget_after(file: Path, start: int) -> None:
    """Drops lines of steps that will run again, and a line cut short by a crash."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_bytes().decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if parse_json(line)["step"] <= start:
                kept.append(line)
    with complete_file(file) as partial:
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
