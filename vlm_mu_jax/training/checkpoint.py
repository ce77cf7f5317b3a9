"""Checkpoints of a run: Orbax steps whose trained weights can be restored alone, and on another mesh.

Several processes write and read one checkpoint together, each its own shards. The folder must therefore be one that
all of them see. Arrays are not compressed: trained weights and moments do not shrink, and compression costs most of
the disk's speed.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.outputs import FULL
from vlm_mu_jax.files.paths import resolved

_ARRAYS = ("trainable", "optimizer")


class Checkpoints:
    """Saved steps of a run: the newest `keep` and the best one.

    Each step holds `trainable`, `optimizer` and `run` (JSON). It appears under its number only when it is complete.
    Saving is asynchronous. Orbax copies the arrays first, so the next step may donate them. A bucket that cannot be
    reached is a JobError of whichever call finds it out, and a full disk an OSError with the name of the folder.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"keep must be at least 1, the newest checkpoint, not {keep}")
        self._folder = resolved(folder)
        self._kept = _Kept(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._kept, create=True)
        check_place(self._folder)
        with self._told():
            self._manager = ocp.CheckpointManager(_place(self._folder), options=options, handler_registry=_handlers())

    def latest(self) -> int | None:
        """Number of updates done at the newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, trainable: Any, optimizer: Any, run: dict[str, Any], best: int | None = None) -> None:
        """Saves the state after `step` updates; a step that is already saved is left alone.

        best: the step to keep however old it gets, in place of an earlier best.
        """
        self._kept.best = best
        if step in self._manager.all_steps():
            return
        buckets.send()  # no checkpoint is newer than the metrics and references beside it
        items = ocp.args.Composite(
            trainable=ocp.args.PyTreeSave(trainable),
            optimizer=ocp.args.PyTreeSave(optimizer),
            run=ocp.args.JsonSave(run),
        )
        with self._told():
            self._manager.save(step, args=items)

    def wait(self) -> None:
        """Until everything that was saved is on disk."""
        with self._told():
            self._manager.wait_until_finished()
        buckets.send()

    def run(self, step: int) -> dict[str, Any]:
        """What the run was, as given to `save`."""
        return self._restore(step, run=ocp.args.JsonRestore())["run"]

    def trainable(self, step: int, like: Any) -> Any:
        """The trained leaves alone; `like`: arrays or ShapeDtypeStructs with the shapes, dtypes and shardings."""
        return self._restore(step, trainable=_request(like))["trainable"]

    def state(self, step: int, trainable: Any, optimizer: Any) -> tuple[Any, Any]:
        """Trained leaves and optimizer state."""
        restored = self._restore(step, trainable=_request(trainable), optimizer=_request(optimizer))
        return restored["trainable"], restored["optimizer"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a save that is still being written, also when the run failed meanwhile."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What a bucket's library raises as a JobError. A full disk has TensorStore say its number alone."""
        try:
            yield
        except (InputError, JobError):
            raise
        except Exception as error:  # each store has its own
            url = buckets.remote(self._folder)
            if full := re.search(rf"os_error_code='({'|'.join(map(str, FULL))})'", str(error)):
                raise OSError(int(full[1]), os.strerror(int(full[1])), str(self._folder)) from error
            if url is None:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise JobError(
                f"{url}: a checkpoint cannot be written ({reason}); the same command goes on from the last complete one"
            ) from error

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, FileNotFoundError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(
                f"{self._folder / str(step)}: cannot be restored ({reason}); delete it or use another workdir"
            ) from error


def check_place(folder: Path) -> None:
    """Before anything is loaded: whether checkpoints can be written below a folder.

    Raises:
      InputError: several processes and S3. Each would write a copy of its own, of which none is complete.
    """
    url = buckets.remote(folder)
    if url is not None and not url.startswith("gs://") and jax.process_count() > 1:
        raise InputError(f"{url}: several processes write checkpoints together to gs:// or to a folder that all see")


def _place(folder: Path) -> Any:
    """Where Orbax writes. It knows Google's buckets; S3's have what it wrote here sent by `buckets`."""
    from etils import epath

    url = buckets.remote(folder)
    return epath.Path(url) if url is not None and url.startswith("gs://") else folder


class _Kept(ocp.checkpoint_managers.PreservationPolicy):
    """The newest `newest` steps and step `best`."""

    def __init__(self, newest: int) -> None:
        self.newest, self.best = newest, None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        kept = {*sorted(steps)[-self.newest :], self.best}
        return [step in kept for step in steps]


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for name in _ARRAYS:
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)
        registry.add(name, ocp.args.PyTreeSave, handler)
        registry.add(name, ocp.args.PyTreeRestore, handler)
    json = ocp.JsonCheckpointHandler()
    registry.add("run", ocp.args.JsonSave, json)
    registry.add("run", ocp.args.JsonRestore, json)
    return registry


def _request(like: Any) -> ocp.args.PyTreeRestore:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))
