"""Flags whose value is a URL where a path is meant: told in one line, before a command makes anything."""

from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import scheme

# What holds text, or the address of a server.
_NO_PATHS = ("prompt", "system", "suffix", "carrier", "word", "columns", "coordinator", "judge_server", "host", "hosts")


def check(own: list[flags.Flag], operands: list[str]) -> None:
    """Raises InputError for the first URL among the values of a command's own flags and its operands."""
    for name, value in [*_texts(own), *(("", operand) for operand in operands)]:
        if (found := scheme(value)) is not None:
            where = f"--{name}={value}" if name else value
            raise InputError(f"{where}: {found}:// is not handled; give a folder or file of this machine")


def _texts(own: list[flags.Flag]) -> Iterator[tuple[str, str]]:
    for flag in own:
        if flag.name not in _NO_PATHS:
            yield from _texts_of(flag.name, flag.value)


def _texts_of(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value.rpartition("=")[2]  # MODEL=FOLDER
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts_of(name, one)
    elif hasattr(value, "items") or isinstance(value, Mapping):  # a config
        for key, one in value.items():
            yield from _texts_of(f"{name}.{key}", one)
