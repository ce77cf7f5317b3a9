"""The two failures a user is meant to see: one line each, no traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or usage. The message names the file or flag and says what to do; commands exit with 2."""


class JobError(RuntimeError):
    """The job itself failed (for example a loss that is not finite); commands exit with 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about a name that is none of `known`: what was meant, or what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
