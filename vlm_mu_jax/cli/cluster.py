"""Flags of a command that may run as several processes, and joining them; see docs/launch.md."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.paths import resolved

if TYPE_CHECKING:
    from vlm_mu_jax.progress import Progress

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "of a job of several processes: HOST:PORT of process 0, or auto on SLURM, Cloud TPU, GKE and Open MPI",
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes the job has; not with auto", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0; not with auto", lower_bound=0)


def join_from_flags(preemption: bool = False) -> bool:
    """Joins the job that the flags describe, if they do; whether this process speaks for all (prints, shows bars). It
    leaves when another fails.

    Args:
      preemption: SIGTERM does not end a process of a job, since the command asks for it and stops in all of them.
    """
    from vlm_mu_jax.parallel import distributed, meeting

    distributed.join(COORDINATOR.value, _PROCESSES.value, _PROCESS.value, preemption)
    meeting.watch()
    return distributed.first()


def check_shared(out: str | Path, flag: str) -> None:
    """Raises InputError when the processes or jobs that `flag` speaks of cannot see each other's files beside `out`."""
    if buckets.remote(resolved(out)) is not None:
        raise InputError(f"{out}: {flag} needs a folder that all processes see at once; mount the bucket")


def own_file_from_flags(out: Path) -> Path:
    """`out` in the process that speaks; in the others a file of their own beside it. Once the job is joined."""
    from vlm_mu_jax.parallel import distributed

    alone = COORDINATOR.value is None or distributed.first()
    return out if alone else out.with_name(f"{out.name}.process{distributed.index()}")


def several() -> bool:
    """Whether the job has several processes."""
    import jax

    return jax.process_count() > 1


def bar() -> "Progress | None":
    """The progress bar of the process that speaks, None in the others; once the job is joined."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.parallel import distributed

    return progress.bar if distributed.first() else None


def tell(line: str) -> None:
    """Shows a line about the other processes."""
    print(line, file=sys.stderr, flush=True)


def leave_together() -> None:
    """Waits for all processes at a command's end: one that leaves early would be taken for dead."""
    from vlm_mu_jax.parallel import meeting

    meeting.part()
