"""Flags that may be given several times and whose values are paths with names, NAME=PATH."""

from collections.abc import Callable, Iterable

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import at_home


def split(value: str) -> tuple[str | None, str]:
    """(NAME, PATH) of "NAME=PATH"; (None, PATH) of a path alone, such as one that exists as it is written."""
    name, _, path = value.partition("=")
    return (name, path) if name and path and not at_home(value).exists() else (None, value)


def by_name(flag: str, values: Iterable[str], unnamed: Callable[[str], str] | None = None) -> dict[str, str]:
    """Name -> path of all values of a flag.

    Args:
      flag: for errors, such as "--guard".
      unnamed: gives a path alone its name. None: every path needs one.

    Raises:
      InputError: a name is missing, or there twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, path = split(value)
        if name is None and unnamed is None:
            raise InputError(f"{flag}={value}: whose is it? write {flag}=NAME={path}")
        name = name or unnamed(path)
        if name in found:
            raise InputError(f"{flag}={value}: there is {name!r} already; write {flag}=NAME={path} with another name")
        found[name] = path
    return found
