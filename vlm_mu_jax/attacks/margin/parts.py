"""A file that the processes of a job write together: process 0 the file itself, each other process a part beside it.

The parts go into the file whenever the processes meet. Those of a job that was killed go into it when it starts again,
with any number of processes.
"""

from pathlib import Path

import jax


def own(path: Path) -> Path:
    """Where this process writes: the file itself, or its part."""
    process = jax.process_index()
    return path if process == 0 else path.with_name(f"{path.name}.part-{process}")


def parts(path: Path) -> list[Path]:
    """The parts that there are."""
    return sorted(path.parent.glob(f"{path.name}.part-*"))


def remove(path: Path) -> None:
    """Removes the parts, whose content is in the file."""
    for part in parts(path):
        part.unlink(missing_ok=True)
