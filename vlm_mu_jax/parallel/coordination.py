"""What a process does where JAX's coordination service gives its job up, or is gone.

JAX's client aborts the process then, with a stack trace of C++. It can call a function of Python instead
(`missed_heartbeat_callback` of jaxlib's `get_distributed_runtime_client`), which `jax.distributed` does not offer. And
jaxlib 0.10 cannot hand that function its argument, an absl::Status: it throws std::bad_cast, which nobody catches. So
the function is also called at the end of all uncaught exceptions, std::terminate, if it was this one.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

_Handler = ctypes.CFUNCTYPE(None)
_handlers: list[Any] = []  # C++ points to them


@contextlib.contextmanager
def clients(end: Callable[[], None], shutdown_seconds: int) -> Iterator[None]:
    """Within it JAX makes its client so that it calls `end` where it would abort the process.

    Args:
      end: called by a thread of C++; it must not return.
      shutdown_seconds: how long the client waits for the others when it shuts down.
    """
    from jax._src.lib import _jax  # jax.distributed makes the client of this module's function

    make = _jax.get_distributed_runtime_client
    _jax.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=lambda *_: end(), shutdown_timeout=shutdown_seconds
    )
    with contextlib.suppress(OSError, AttributeError):  # another C++ library than GNU's: JAX's trace stays
        _at_bad_cast(end)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make


def quieten() -> None:
    """Hides what JAX's C++ logs of what `end` says, once devices are there; TF_CPP_MIN_LOG_LEVEL=0 shows it."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":  # as commands set it: errors, no warnings
        with contextlib.suppress(ImportError, AttributeError):
            from jax._src.lib import utils

            utils.absl_set_min_log_level(3)


def _at_bad_cast(end: Callable[[], None]) -> None:
    library = ctypes.CDLL("libstdc++.so.6")
    current, set_terminate = library["__cxa_current_exception_type"], library["_ZSt13set_terminatePFvvE"]
    current.restype, set_terminate.restype, set_terminate.argtypes = *[ctypes.c_void_p] * 2, [ctypes.c_void_p]

    @_Handler
    def terminate() -> None:
        if (thrown := current()) and _name(thrown) == b"St8bad_cast":
            end()
        _Handler(before)()

    before = set_terminate(ctypes.cast(terminate, ctypes.c_void_p))
    _handlers.append(terminate)


def _name(type_info: int) -> bytes | None:
    """The mangled name of a std::type_info: a pointer behind the one to its virtual table."""
    return ctypes.c_char_p.from_address(type_info + ctypes.sizeof(ctypes.c_void_p)).value
