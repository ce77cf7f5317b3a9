"""Paths as users write them: relative, with `..` or `~`, through symbolic links, with spaces or in any script."""

import os
from pathlib import Path

from vlm_mu_jax.errors import InputError


def resolved(path: str | Path) -> Path:
    """The absolute path without `~`, `..` and symbolic links; it need not exist.

    Every function that takes a path from a user passes it through here. The libraries below do not accept what a shell
    accepts: TensorStore, for one, refuses a path that contains `..`.

    Raises:
      InputError: the path is empty, cannot be resolved, or is no valid text (TensorStore and JSON files need text).

    Example:
      resolved("~/runs/../base")  # -> /home/ada/base
    """
    if not os.fspath(path):
        raise InputError("an empty path was given; give a file or folder")
    try:
        found = Path(path).expanduser().resolve()
        str(found).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{ascii(os.fspath(path))}: the path is not valid UTF-8; rename it or give another") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no such user, a null character
        raise InputError(f"{ascii(os.fspath(path))}: not a usable path ({error}); give another") from error
    return found
