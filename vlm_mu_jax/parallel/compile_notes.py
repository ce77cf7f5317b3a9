"""Says which program is compiled when that takes long: nothing else would tell a waiting user why.

Of several processes the first one speaks.
"""

import sys
import threading
from typing import Any

from vlm_mu_jax.parallel import distributed

SECONDS = 2.0  # before a word is said; a program from the cache on disk is there sooner
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # a program is known, and is compiled next
_COMPILED = "/jax/core/compile/backend_compile_duration"  # also when it came from the cache
_timers: dict[int, threading.Timer] = {}  # by the thread that compiles


def start() -> None:
    """Watches what JAX compiles in this process from now on."""
    import jax

    jax.monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, _: float, **about: Any) -> None:
    if event not in (_LOWERED, _COMPILED):
        return
    before = _timers.pop(threading.get_ident(), None)
    if before is not None:
        before.cancel()
    if event == _LOWERED:
        timer = threading.Timer(SECONDS, _say, [str(about.get("fun_name") or "a program")])
        timer.daemon = True
        _timers[threading.get_ident()] = timer
        timer.start()


def _say(name: str) -> None:
    if not distributed.first():
        return
    name = name.removeprefix("jit(").removesuffix(")").strip("_")
    print(f"compiling {name} ...", file=sys.stderr, flush=True)
