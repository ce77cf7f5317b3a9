"""The lock of what a command writes in a bucket: an object that its holder renews and others look at."""

import json
import os
import secrets
import socket
import threading
import time

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.stores import Store

RENEW = 15.0  # seconds between two renewals
_SETTLE = 0.5  # where a store takes two writers' objects, both read the same one back after this time


class BucketLock:
    """The lock `.NAME.lock` beside KEY, held from its making to `release` or the end of the process.

    A lock whose holder has died is taken over: at once if it was a process of this machine, else when it was not
    renewed for two renewals.

    Raises:
      InputError: another command holds it.
    """

    def __init__(self, store: Store, key: str, url: str) -> None:
        parent, _, name = key.rpartition("/")
        self._store, self._url = store, url
        self._key = f"{parent}/.{name}.lock" if parent else f"{key}/.lock"
        self._mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8), "renewed": 0}
        self._lost, self._stop = False, threading.Event()
        self._wait_for_holder()
        try:
            store.files.pipe_file(self._key, self._content(), mode="create")
        except FileExistsError:
            self._refuse()
        time.sleep(_SETTLE)
        if (self._read() or {}).get("token") != self._mine["token"]:
            self._refuse()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises JobError when another command has taken the lock: this process was out of reach for too long."""
        if self._lost:
            raise JobError(f"{self._url}: another command has taken it over, because this one was out of reach")

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self._lost:
            self._store.remove(self._key)

    def _wait_for_holder(self) -> None:
        holder = self._read()
        if holder is None:
            return
        seen, until = holder, time.monotonic() + 2 * RENEW + 5
        while not self._is_dead(holder) and time.monotonic() < until:
            time.sleep(1)
            holder = self._read()
            if holder is None:
                return
            if holder != seen:
                self._refuse()
        self._store.remove(self._key)

    def _is_dead(self, holder: dict) -> bool:
        """Whether the holder was a process of this machine that is no more."""
        if holder.get("host") != self._mine["host"]:
            return False
        pid = holder.get("pid")
        if pid == self._mine["pid"]:  # of an earlier life of this container
            return True
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, TypeError, ValueError):
            return True
        except PermissionError:
            pass
        return False

    def _refuse(self) -> None:
        holder = self._read() or {}
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        raise InputError(f"{self._url}: another command is writing it ({who}); wait for it, or give another folder")

    def _read(self) -> dict | None:
        try:
            return json.loads(self._store.files.cat_file(self._key))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        except Exception as error:  # each store has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"{self._url}: cannot be read ({reason})") from error

    def _content(self) -> bytes:
        self._mine["renewed"] += 1
        return json.dumps(self._mine).encode()

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            try:
                holder = self._read()
                if holder is not None and holder.get("token") != self._mine["token"]:
                    self._lost = True
                    return
                self._store.files.pipe_file(self._key, self._content())
            except Exception:  # out of reach: tried again
                continue
