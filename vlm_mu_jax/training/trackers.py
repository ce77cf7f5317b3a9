"""Where a run's metrics are shown: TensorBoard, Weights & Biases or trackio. metrics.jsonl is written beside each.

Nothing leaves the machine unless it is told to. W&B writes into WORKDIR/wandb, offline, until `WANDB_MODE=online` is
set or `wandb sync` sends the folder. Trackio writes into WORKDIR/trackio, or `TRACKIO_DIR`, and knows no other place.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from vlm_mu_jax.absent import absent
from vlm_mu_jax.errors import InputError, nearest

PROJECT = "vlm_mu_jax"
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """What takes numbers by their names ("train/loss") after an update, and is closed at the end."""

    def add(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check(name: str) -> None:
    """Raises InputError for a tracker that does not exist, or whose package is not installed."""
    if name not in PACKAGES:
        raise InputError(f"config.log: {name!r} is unknown; {nearest(name, PACKAGES)}")
    if find_spec(PACKAGES[name]) is None:
        raise InputError(f"config.log={name} needs a package; pip install 'vlm_mu_jax[{name}]'")


def opened(name: str, workdir: Path, start: int) -> Tracker:
    """The tracker of a run in `workdir` that has done `start` updates. Raises InputError as `check` does."""
    check(name)
    made: dict[str, Callable[[Path, int], Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "trackio": _Trackio,
    }
    return made[name](workdir, start)


class _TensorBoard:
    def __init__(self, workdir: Path, start: int):
        with absent("torch"):  # tensorboardX imports it wherever it is installed: a second, and 200 MB, for nothing
            from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir), purge_step=start + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run that is started again goes on under the same id."""

    def __init__(self, workdir: Path, start: int):
        import wandb

        identity = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=PROJECT,
            name=workdir.name,
            id=identity,
            resume="allow",
            dir=str(workdir),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(quiet=True),
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, workdir: Path, start: int):
        os.environ.setdefault("TRACKIO_DIR", str((workdir / "trackio").resolve()))  # read when it is imported
        import trackio

        self._run = trackio.init(PROJECT, name=workdir.name, resume="allow", embed=False, auto_log_cpu=False)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
