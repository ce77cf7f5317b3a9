"""Where processes that share work out meet again: who is there, who is still at work, who is gone.

Nothing here runs on the devices. Messages go through the coordination service of `jax.distributed`, and a thread of
each process gives a sign of life, also while a program compiles.

A file that the processes write together has parts: process 0 writes the file itself, each other process a part beside
it. The parts go into the file whenever the processes meet. Those of a job that was killed go into it when it starts
again, with any number of processes.
"""

import collections
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.parallel import coordination

SIGN_SECONDS = 5.0  # between two signs of life
GONE_SECONDS = 60.0  # without one: the process is gone
SLOW_SECONDS = 60.0  # how long a wait is before it is said, and said again
FAREWELL_SECONDS = 20.0  # how long a process that has parted waits for the answer of process 0
_ALIVE = "vlm_mu_jax/alive"  # where the signs are
_OVER = "vlm_mu_jax/over"  # why the job ends
_PARTED = "vlm_mu_jax/parted"  # who has met all others at the end

_calls: collections.Counter[str] = collections.Counter()
_signs: threading.Thread | None = None
_watching = False
_speaking = threading.Lock()  # held by the thread that says why this process ends; the process ends with it
_parted: int | None = None  # the exit code of a process that has met the others for the last time
_never = threading.Event()


def give_signs() -> None:
    """Starts the signs of life of this process."""
    global _signs
    if jax.process_count() > 1 and _signs is None:
        _signs = threading.Thread(target=_sign, args=(_client(), jax.process_index()), daemon=True)
        _signs.start()


def watch() -> None:
    """For a command whose processes share work: from now on this process leaves, in one line, when another has failed
    or is gone, whatever it does at that time."""
    global _watching
    _watching = True
    give_signs()
    if _signs is not None:
        coordination.quieten()


def hear(error: BaseException) -> None:
    """Before a process that watches says what has failed: another that is gone may be why, and is named instead.

    Common work that breaks raises an error of JAX at once, while the signs of the one that is gone have to be missed
    for long enough. Does not return when another thread says it.
    """
    if not _watching or _signs is None:
        return
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        time.sleep(GONE_SECONDS + 2 * SIGN_SECONDS)
    _speaking.acquire()


def leave(error: BaseException, message: str, code: int) -> None:
    """Ends this process, which has said what has failed, and all others that `watch`.

    JAX's own farewell is left out, for it would wait for those that are gone. Returns where this process watches none,
    and for an error that all raise, when they have met.

    Args:
      error: what has failed, given to `hear` before.
      message: the line that was said.
      code: the exit code.
    """
    global _parted
    if _parted is not None:
        _parted = code
    if not _watching or _signs is None:
        return
    if isinstance(error, JobError) and error.everywhere:
        with contextlib.suppress(JobError):
            return part(code)
    gone = " is gone" in message
    _leave(_client(), message if gone else f"process {jax.process_index()} has failed: {message}", code)


def part(code: int = 0) -> None:
    """The last meeting, after which no process needs the others.

    JAX's farewell, which aborts those that are more than a minute apart (`distributed.SHUTDOWN_SECONDS`), is left out.

    Raises:
      JobError: a process is gone before it came, which the message names.
    """
    global _parted, _watching
    meet("end")
    if jax.process_count() == 1:
        return
    _parted, _watching, client = code, False, _client()
    if jax.process_index() > 0:
        # Process 0 may be gone before its answer is here, and JAX would wait for that for ever.
        tell = threading.Thread(target=_tell_parted, args=(client, jax.process_index()), daemon=True)
        tell.start()
        return tell.join(FAREWELL_SECONDS)
    for process in range(1, jax.process_count()):  # the service is in this process until all know that all were there
        with contextlib.suppress(JobError):
            _awaited(client, _PARTED, "end", process, None)


def _tell_parted(client: Any, process: int) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{_PARTED}/{process}", "")


def at_exit() -> None:
    """Registered after JAX's own: ends a process that has parted, before JAX shuts down."""
    if _parted is not None:
        _flush()
        os._exit(_parted)


def given_up() -> None:
    """Ends this process when JAX's coordination service has given the job up or is gone; called by JAX's threads."""
    if _parted is not None:  # what is left to do here needs nobody
        _never.wait()
    _speaking.acquire()
    gone = "process 0, which coordinates the job, is gone"
    given = "JAX's coordination service has given the job up, for a process gave it no sign of life"
    print(f"error: {given if _answers() else gone}; {_ADVICE}", file=sys.stderr, flush=True)
    os._exit(1)


def _answers() -> bool:
    """Whether the coordination service is still there."""
    from jax._src import distributed

    time.sleep(1)  # a process that is killed closes one connection after the other
    host, _, port = (distributed.global_state.coordinator_address or "").rpartition(":")
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def _leave(client: Any, message: str, code: int = 1) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another has told, or the service is gone
        client.key_value_set(_OVER, message)
    _flush()
    if jax.process_index() == 0:  # the service is in this process; the others have to hear it first
        time.sleep(2 * SIGN_SECONDS)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it
            stream.flush()


def meet(what: str, value: Any = None, tell: Callable[[str], None] | None = None) -> list[Any]:
    """Waits until every process has called this for `what`; returns what each brought, by process.

    Args:
      what: what the processes have done, for messages. The n-th call with it meets the others' n-th.
      value: what this process brings, anything that JSON holds and numbers of numpy. It is small, for it is kept in the
        coordinator's memory.
      tell: gets a line, once a minute, about a process that others wait for.

    Raises:
      JobError: a process is gone, which the message names.
    """
    if jax.process_count() == 1:
        return [value]
    give_signs()
    _calls[what] += 1
    place = f"vlm_mu_jax/{what}/{_calls[what]}"
    client = _client()
    client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(value, default=float))
    return [json.loads(_awaited(client, place, what, process, tell)) for process in range(jax.process_count())]


def _client() -> Any:
    from jax._src import distributed  # the service has no public interface; Orbax reads it here too

    return distributed.global_state.client


def _sign(client: Any, process: int) -> None:
    heard: dict[str, tuple[str, float]] = {}
    for number in range(2**31):
        try:
            client.key_value_set(f"{_ALIVE}/{process}", str(number), allow_overwrite=True)
            message = (
                (_tried(client, _OVER) or (_silent(client, heard) if process == 0 else None)) if _watching else None
            )
        except jax.errors.JaxRuntimeError:  # the job is over
            return
        if message is not None and _watching:
            _speaking.acquire()
            print(f"error: {message}", file=sys.stderr)
            _leave(client, message)
        time.sleep(SIGN_SECONDS)


def _silent(client: Any, heard: dict[str, tuple[str, float]]) -> str | None:
    """What to say of a process without a sign of life for too long. heard: its last sign and when that came."""
    now = time.monotonic()
    for place, sign in client.key_value_dir_get(_ALIVE):
        if heard.get(place, ("", 0.0))[0] != sign:
            heard[place] = sign, now
        elif (seconds := now - heard[place][1]) >= GONE_SECONDS:
            return f"process {place.rpartition('/')[2]} is gone: no sign of life for {seconds:.0f} s; {_ADVICE}"
    return None


def _awaited(client: Any, place: str, what: str, process: int, tell: Callable[[str], None] | None) -> str:
    """What the process brings to the place."""
    start = said = heard = time.monotonic()
    last = None
    while True:
        try:
            return client.blocking_key_value_get(f"{place}/{process}", int(SIGN_SECONDS * 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise JobError(f"process 0, which coordinates the job, is gone; {_ADVICE}") from error
        now, sign = time.monotonic(), _tried(client, f"{_ALIVE}/{process}")
        if sign != last:
            last, heard = sign, now
        if now - heard >= GONE_SECONDS:
            raise JobError(
                f"process {process} is gone: no sign of life for {now - heard:.0f} s while the others wait for its"
                f" {what}; {_ADVICE}"
            )
        if tell is not None and now - said >= SLOW_SECONDS:
            said = now
            tell(f"waiting for process {process} ({what}) for {now - start:.0f} s; last sign {now - heard:.0f} s ago")


_ADVICE = "what is finished is kept: start the job again, with any number of processes"


def _tried(client: Any, key: str) -> str | None:
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # none yet
        return None


def own_part(path: Path) -> Path:
    """Where this process writes: the file itself, or its part."""
    process = jax.process_index()
    return path if process == 0 else path.with_name(f"{path.name}.part-{process}")


def parts(path: Path) -> list[Path]:
    """The file's parts that there are."""
    return sorted(path.parent.glob(f"{path.name}.part-*"))


def remove_parts(path: Path) -> None:
    """Removes the parts, whose content is in the file."""
    for part in parts(path):
        part.unlink(missing_ok=True)
