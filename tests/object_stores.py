"""Object stores on this machine: real servers of Google's and Amazon's interfaces, behind a line that can be cut."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.command import ROOT


class Line:
    """Passes TCP connections on to a port, until it is cut."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, free_port()
        self._open: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller = listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [caller, server]
                for pair in ((caller, server), (server, caller)):
                    threading.Thread(target=_pass, args=pair, daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class ObjectStore:
    """A running server. env: what a command needs to reach it. url: an empty bucket. files: its fsspec file system."""

    def __init__(self, scheme: str, folder) -> None:
        self.scheme, self.url = scheme, f"{scheme}://bucket"
        port = free_port()
        if scheme == "gs":
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as the product; read at the import
            pytest.importorskip("gcsfs"), pytest.importorskip("gcp_storage_emulator")
            command = ["tests.gcs_server", "start", f"--port={port}", "--host=127.0.0.1", "--in-memory"]
            command += ["--default-bucket=bucket"]
        else:
            pytest.importorskip("s3fs"), pytest.importorskip("moto")
            command = ["moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with open(folder / f"{scheme}.log", "w") as log:
            self._server = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, cwd=ROOT)
        _wait_for(port)
        self.line = Line(port)
        address = f"http://127.0.0.1:{self.line.port}"
        self.env = {
            "gs": {"STORAGE_EMULATOR_HOST": address, "GOOGLE_CLOUD_PROJECT": "project"},
            "s3": {
                "AWS_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        }[scheme]

    @contextlib.contextmanager
    def reached(self):
        """Within it this process reaches the store as commands do."""
        before = dict(os.environ)
        os.environ.update(self.env)
        try:
            from vlm_mu_jax.files.stores import Store

            self.files = Store(self.scheme).files
            if self.scheme == "s3" and not self.files.exists("bucket"):
                self.files.mkdir("bucket")
            yield self
        finally:
            os.environ.clear()
            os.environ.update(before)

    def stop(self) -> None:
        self.line.cut()
        self._server.kill()
        self._server.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_for(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.1)
    raise AssertionError("the object store does not start")
