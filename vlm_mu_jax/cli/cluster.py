"""Flags of a command that may run as several processes, and joining them; see docs/launch.md."""

from absl import flags

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "of a job of several processes: HOST:PORT of process 0, or auto on SLURM, Cloud TPU, GKE and Open MPI",
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes the job has; not with auto", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0; not with auto", lower_bound=0)


def join() -> bool:
    """Joins the job that the flags describe, if they do; whether this process speaks for all (prints, shows bars)."""
    from vlm_mu_jax.parallel import distributed

    distributed.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    return distributed.first()
