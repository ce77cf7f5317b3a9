"""The two failures a user is meant to see: one line each, no traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or usage. The message names the file or flag and says what to do; commands exit with 2."""


class JobError(RuntimeError):
    """The job itself failed (for example a loss that is not finite); commands exit with 1.

    Attributes:
      everywhere: whether all processes of a job raise it at the same place. They end together then; else one has failed
        alone.
    """

    def __init__(self, message: str, everywhere: bool = False) -> None:
        super().__init__(message)
        self.everywhere = everywhere


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about a name that is none of `known`: what was meant, or what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
