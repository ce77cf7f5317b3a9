"""The thread that all models of a server are run in: a device does one thing at a time."""

import threading
import traceback
from collections.abc import Sequence

from vlm_mu_jax.serving.engine import Engine

IDLE_SECONDS = 1.0  # between two looks at the queues when nobody wakes the thread


class EngineThread:
    """Gives every engine its turn, one after the other."""

    def __init__(self, engines: Sequence[Engine]):
        self._engines = engines
        self._wanted, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is work, or less of it."""
        self._wanted.set()

    def stop(self) -> None:
        """Ends the thread after the turn that it is in."""
        self._stopping = True
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.clear()
            if not sum(map(self._turn, self._engines)):
                self._wanted.wait(IDLE_SECONDS)

    def _turn(self, engine: Engine) -> bool:
        try:
            return engine.turn()
        except Exception:  # its answers have ended with it; the next ones start afresh
            traceback.print_exc()
            return True
