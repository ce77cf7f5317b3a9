"""The commands behind bin/*: flags in, exit code out. Each module imports JAX only inside its main()."""

import functools
import sys
from collections.abc import Callable
from types import TracebackType


def _show(otherwise: Callable, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Shows what nobody caught: of Ctrl-C one line, for it may come before `command.run` listens."""
    if not issubclass(kind, KeyboardInterrupt):
        return otherwise(kind, error, trace)
    print("interrupted", file=sys.stderr)


sys.excepthook = functools.partial(_show, sys.excepthook)
