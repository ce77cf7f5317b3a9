"""Checkpoints of a run: Orbax steps whose trained weights can be restored alone, and on another mesh."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vlm_mu_jax.errors import InputError


class Checkpoints:
    """Steps under `folder`, the newest `keep` of them; each holds `trainable`, `optimizer` and `run` (JSON).

    Saving is asynchronous: Orbax copies the arrays first, so the next step may donate them.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Number of updates done at the newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, trainable: Any, optimizer: Any, run: dict[str, Any]) -> None:
        """Saves the state after `step` updates; a step that is already saved is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                trainable=ocp.args.StandardSave(trainable),
                optimizer=ocp.args.StandardSave(optimizer),
                run=ocp.args.JsonSave(run),
            ),
        )

    def run(self, step: int) -> dict[str, Any]:
        """What the run was, as given to `save`."""
        return self._restore(step, run=ocp.args.JsonRestore())["run"]

    def trainable(self, step: int, like: Any) -> Any:
        """The trained leaves alone; `like`: arrays or ShapeDtypeStructs with the shapes, dtypes and shardings."""
        return self._restore(step, trainable=ocp.args.StandardRestore(_abstract(like)))["trainable"]

    def state(self, step: int, trainable: Any, optimizer: Any) -> tuple[Any, Any]:
        """Trained leaves and optimizer state."""
        restored = self._restore(
            step,
            trainable=ocp.args.StandardRestore(_abstract(trainable)),
            optimizer=ocp.args.StandardRestore(_abstract(optimizer)),
        )
        return restored["trainable"], restored["optimizer"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a save that is still being written, also when the run failed meanwhile."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, FileNotFoundError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(
                f"{self._folder / str(step)}: cannot be restored ({reason}); delete it or use another workdir"
            ) from error


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
