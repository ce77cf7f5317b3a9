"""Paths as users write them: relative, with `..` or `~`, through symbolic links, with spaces or in any script."""

import os
import re
from pathlib import Path

from vlm_mu_jax.errors import InputError

_SCHEME = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]+):/"
)  # two letters at least: C:/ is a drive; pathlib makes gs:/ of gs://


def scheme(path: str | Path) -> str | None:
    """The scheme of a URL, such as gs; None of a path."""
    found = _SCHEME.match(os.fspath(path))
    return found[1].lower() if found else None


def at_home(path: str | Path) -> Path:
    """The path with the home folder in place of a leading `~`; nothing else is changed."""
    return Path(os.path.expanduser(path))


def resolved(path: str | Path) -> Path:
    """The absolute path without `~`, `..` and symbolic links; it need not exist.

    Every function that takes a path from a user passes it through here. The libraries below do not accept what a shell
    accepts: TensorStore, for one, refuses a path that contains `..`.

    Raises:
      InputError: the path is empty, a URL, cannot be resolved, or is no valid text (TensorStore and JSON files need
        text).

    Example:
      resolved("~/runs/../base")  # -> /home/ada/base
    """
    if not os.fspath(path):
        raise InputError("an empty path was given; give a file or folder")
    if (found := scheme(path)) is not None:
        raise InputError(f"{os.fspath(path)}: {found}:// is not handled here; give a folder or file of this machine")
    try:
        found = Path(path).expanduser().resolve()
        str(found).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{ascii(os.fspath(path))}: the path is not valid UTF-8; rename it or give another") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no such user, a null character
        raise InputError(f"{ascii(os.fspath(path))}: not a usable path ({error}); give another") from error
    return found
