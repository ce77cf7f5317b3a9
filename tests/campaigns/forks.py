"""Commands of the product in forks of a campaign's process, with their streams beside the folder they run in."""

from pathlib import Path

from tests import command_server, conftest  # conftest: the environment of all tests, before JAX reads it

assert conftest


def start(command: str, place: Path, limit: int = 300) -> int:
    """Starts `bin/COMMAND` in the folder `place`, for at most `limit` seconds; returns its process id."""
    return command_server.fork(command.split(), place, place.parent, timeout=limit)
