"""Several processes as one job: joining them, agreeing between them, and host copies of arrays that span them.

Every function may also be called in a job of one process, where nothing has to be agreed on.
"""

import atexit
import json
import os
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.parallel import coordination, meeting

AUTO = "auto"
JOIN_SECONDS = 300  # how long the processes may take to come up
SHUTDOWN_SECONDS = 60  # how long a process that ends waits for the others, if they have not met (meeting.part)


def join(
    coordinator: str | None, processes: int | None = None, process: int | None = None, preemption: bool = True
) -> None:
    """Makes this process part of a job; call it before anything else of JAX.

    Args:
      coordinator: host:port of process 0; "auto" where JAX can find out by itself (SLURM, Cloud TPU, GKE, Open MPI);
        None for a job of one process.
      processes, process: their number and this one's, from 0; not with "auto".
      preemption: SIGTERM does not end the process, but is told by JAX's preemption service (`training.preemption`).

    Raises:
      InputError: the three do not fit together or to where the process runs. JobError: the others cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise InputError("--num_processes and --process_id need --coordinator=HOST:PORT of process 0")
        _not_forgotten()
        return
    if coordinator == AUTO:
        if processes is not None or process is not None:
            raise InputError("--coordinator=auto finds --num_processes and --process_id by itself; leave them out")
    elif processes is None or process is None:
        raise InputError(f"--coordinator={coordinator} also needs --num_processes and --process_id")
    elif not 0 <= process < processes:
        raise InputError(f"--process_id={process} must be 0..{processes - 1}, below --num_processes")
    elif not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
        raise InputError(f"--coordinator={coordinator} is no HOST:PORT")
    if process == 0:
        _check_free(coordinator)
    elif process is not None:
        _wait_for(coordinator)
    jax.config.update("jax_enable_preemption_service", preemption)
    atexit.register(meeting.at_exit)
    _initialize(None if coordinator == AUTO else coordinator, processes, process)


def _not_forgotten() -> None:
    """Several tasks that each believe to be alone would write into one workdir."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1:
        raise InputError(f"this is one of {tasks} SLURM tasks; add --coordinator=auto, or start a single task")


def _check_free(coordinator: str) -> None:
    """JAX would end the process with a stack trace when it cannot have the port, or (below) when nobody answers."""
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("", port))
    except OSError as error:
        raise InputError(f"--coordinator={coordinator}: port {port} is taken ({error}); choose another") from error


def _wait_for(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise JobError(
                    f"nothing answers at --coordinator={coordinator} ({error}); is process 0 running there?"
                ) from error
        time.sleep(0.5)


def _initialize(address: str | None, processes: int | None, process: int | None) -> None:
    try:
        with coordination.clients(meeting.given_up, SHUTDOWN_SECONDS):
            jax.distributed.initialize(
                address,
                processes,
                process,
                initialization_timeout=JOIN_SECONDS,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
    except ValueError as error:
        raise InputError(
            f"--coordinator=auto: no cluster that JAX knows was found ({error}); give --coordinator=HOST:PORT, "
            "--num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise JobError(f"the processes could not join at {address or 'the detected coordinator'}: {error}") from error


def first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def index() -> int:
    """The number of this process in its job, from 0."""
    return jax.process_index()


def sync(what: str) -> None:
    """Waits until every process is here. `what` names the place."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def from_first(value: Any) -> Any:
    """Process 0's value (anything that JSON holds) in every process; what the others give is not looked at."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode() if first() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(data.size)))
    buffer = np.zeros(-(-size // 1024) * 1024, np.uint8)  # every length of it would be compiled
    buffer[: data.size] = data
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer))[:size].tobytes())


def maximum(values: np.ndarray) -> np.ndarray:
    """The largest value of all processes, elementwise: joins what each has filled in of an array of zeros."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values)).max(axis=0)


def total(values: np.ndarray) -> np.ndarray:
    """The sum of all processes' values, elementwise: joins what each has filled in of an array of zeros."""
    if jax.process_count() == 1:
        return values
    first_of = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([first_of[process] for process in range(jax.process_count())]), ("process",))
    parts = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), values[None])
    add = jax.jit(lambda parts: parts.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    return np.asarray(add(parts).addressable_data(0))


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array on the host of every process; all of them must call it when it spans them."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(jax.device_get(x))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
