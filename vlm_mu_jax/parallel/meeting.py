"""Where processes that share work out meet again: who is there, who is still at work, who is gone.

Nothing here runs on the devices. Messages go through the coordination service of `jax.distributed`, and a thread of
each process gives a sign of life, also while a program compiles.

A file that the processes write together has parts: process 0 writes the file itself, each other process a part beside
it. The parts go into the file whenever the processes meet. Those of a job that was killed go into it when it starts
again, with any number of processes.
"""

import collections
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.errors import JobError

SIGN_SECONDS = 5.0  # between two signs of life
GONE_SECONDS = 60.0  # without one: the process is gone
SLOW_SECONDS = 60.0  # how long a wait is before it is said, and said again

_calls: collections.Counter[str] = collections.Counter()
_signs: threading.Thread | None = None


def give_signs() -> None:
    """Starts the signs of life of this process."""
    global _signs
    if jax.process_count() > 1 and _signs is None:
        _signs = threading.Thread(target=_sign, args=(_client(), jax.process_index()), daemon=True)
        _signs.start()


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
    for number in range(2**31):
        try:
            client.key_value_set(f"vlm_mu_jax/alive/{process}", str(number), allow_overwrite=True)
        except jax.errors.JaxRuntimeError:  # the job is over
            return
        time.sleep(SIGN_SECONDS)


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
        now, sign = time.monotonic(), _sign_of(client, process)
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


def _sign_of(client: Any, process: int) -> str | None:
    try:
        return client.key_value_try_get(f"vlm_mu_jax/alive/{process}")
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
