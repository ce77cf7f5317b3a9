"""URLs and `~/` where a command takes a path. Of a URL the command gets a copy, or is refused before it makes anything.

Shells leave the `~` of --flag=~/folder as it is.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from absl import flags

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.paths import scheme
from vlm_mu_jax.files.stores import SCHEMES

# Of text, or of a server's address, nothing is looked at.
_NO_PATHS = ("prompt", "system", "suffix", "carrier", "word", "columns", "coordinator", "judge_server", "host", "hosts")
_WRITTEN = ("out", "workdir", "chart", "attribution_chart", "saliency_chart", "rebalance", "figures")
_STREAMED = ("source", "lora", "vision_tower")  # of bin/convert_hf, which reads tensor by tensor
_WITH_IMAGES = ("data", "check", "safety", "general", "history")  # beside a data file lie its images
_LINKED = ("safety", "general", "out")  # of bin/curate, whose folder links to the images: a copy does not stay
_LOCAL = ("bin/quickstart", "bin/compare", "bin/bench")  # start other commands, or measure this machine's disk


def localised(command: str, own: list[flags.Flag], operands: list[str]) -> list[str]:
    """Puts a copy's path in place of every gs://, s3:// or hf:// URL among a command's flags, and the home folder in
    place of `~/`.

    Returns:
      The operands, with their URLs replaced as well.

    Raises:
      InputError: a scheme that is not handled, or a bucket that cannot be read or is being written.
    """
    give = functools.partial(_local, command)
    _changed("", operands, functools.partial(_checked, command))  # all of them before the first is copied
    for flag in own:
        if flag.name not in _NO_PATHS:
            _changed(flag.name, flag.value, functools.partial(_checked, command))
    for flag in own:
        if flag.name not in _NO_PATHS:
            changed = _changed(flag.name, flag.value, give)
            if changed is not flag.value:
                flag.value = changed
    return _changed("", operands, give)


def _changed(name: str, value: Any, give: Callable[[str, str], str]) -> Any:
    """The value with its URLs and `~/` replaced; the very same where it has none. A config is changed in place."""
    if isinstance(value, str):
        before, equals, path = value.rpartition("=")  # MODEL=FOLDER
        if path.startswith("~/"):
            return f"{before}{equals}{os.path.expanduser(path)}"
        return f"{before}{equals}{give(name, path)}" if scheme(path) else value
    if isinstance(value, list | tuple):
        changed = [_changed(name, one, give) for one in value]
        return value if all(new is old for new, old in zip(changed, value, strict=True)) else type(value)(changed)
    if hasattr(value, "items"):
        for key, one in value.items():
            changed = _changed(f"{name}.{key}", one, give)
            if changed is not one:
                value[key] = changed
    return value


def _checked(command: str, name: str, url: str) -> str:
    found, where = scheme(url), f"--{name}={url}" if name else url
    local = command in _LOCAL or (command == "bin/curate" and name in _LINKED)
    if found not in SCHEMES or local:
        handled = "" if local else f"{', '.join(f'{one}://' for one in SCHEMES)} or "
        raise InputError(f"{where}: {found}:// is not handled; give {handled}a folder or file of this machine")
    if found == "hf" and name in _WRITTEN:
        raise InputError(f"{where}: hf:// is read only; bin/convert_hf --export --push=ORG/NAME writes there")
    return url


def _local(command: str, name: str, url: str) -> str:
    if not isinstance(sys.stdout, _Named):
        sys.stdout, sys.stderr = _Named(sys.stdout), _Named(sys.stderr)
    path = buckets.copies().local(url, name in _WRITTEN, lock=_lock(), stream=name in _STREAMED)
    folder = url.rpartition("/")[0]
    if name in _WITH_IMAGES and path.is_file() and "/" in folder.partition("://")[2]:  # never a whole bucket
        buckets.copies().local(folder)
    return str(path)


def _lock() -> str | None:
    """Ending of the lock's name. Of a job's processes the first takes it; with auto none is known yet, and none does.
    The jobs of an array each write their own share."""
    given = {name: flags.FLAGS[name].value for name in ("coordinator", "process_id", "shard") if name in flags.FLAGS}
    if given.get("coordinator") is not None:
        return None if given["coordinator"] == "auto" or given["process_id"] else ""
    return f".{given['shard'].replace('/', '-of-')}" if given.get("shard") else ""


class _Named:
    """A stream in which every copy is called by its URL."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(buckets.named(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
