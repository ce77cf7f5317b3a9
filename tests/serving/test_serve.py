"""What `bin/serve` makes of its flags, and the command itself."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.command import ROOT
from tests.serving.running import post
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.serving import serve as module
from vlm_mu_jax.serving.serve import ServeOptions, open_engines, serve


@pytest.fixture(scope="module")
def guards(split_guard, tmp_path_factory):
    """The folder of a guard of the tiny model."""
    folder = tmp_path_factory.mktemp("guards") / "careful"
    split_guard.save(folder)
    return folder


def names(checkpoints, guards=()):
    said = []
    engines = open_engines(list(map(str, checkpoints)), list(map(str, guards)), ServeOptions(rows=1), said.append)
    assert len(said) == len(checkpoints)
    return [(engine.name, engine.guard is not None) for engine in engines]


def test_models_are_called_as_their_folders_or_as_told_and_guards_after_both(home, guards):
    assert names([home.folder], [guards]) == [
        (home.folder.parent.name, False),
        (f"{home.folder.parent.name}+careful", True),
    ]
    both = [f"a={home.folder}", f"b={home.folder}"]
    assert names(both, [f"b={guards}"]) == [("a", False), ("b", False), ("b+careful", True)]
    with pytest.raises(InputError, match="whose guard is it.*--guard=MODEL=.*a, b"):
        names(both, [guards])
    with pytest.raises(InputError, match="two models are called"):
        names([home.folder, home.folder])
    with pytest.raises(InputError, match="two guards"):
        names([f"a={home.folder}"], [guards, guards])


def test_what_cannot_be_served_is_said_before_a_model_is_loaded(home, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load", lambda _: pytest.fail("loaded"))
    (tmp_path / "keys").write_text("# none\n\n")
    with pytest.raises(InputError, match="holds no API key"):
        serve([str(home.folder)], options=ServeOptions(key_file=str(tmp_path / "keys")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port}: .*choose another"):
            serve([str(home.folder)], options=ServeOptions(port=port))
    with pytest.raises(InputError, match="--host=no.such.host"):
        serve([str(home.folder)], options=ServeOptions(host="no.such.host", port=0))


def test_the_command_serves_until_it_is_told_to_stop(home, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    words = [sys.executable, "-m", "vlm_mu_jax.cli.serve", f"--checkpoint=tiny={home.folder}", "--port=0", "--rows=1"]
    words.append(f"--api_key_file={tmp_path / 'keys'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        line = next(line for line in server.stdout if line.startswith("serving tiny at http://127.0.0.1:"))
        url = line.split()[-1]
        body = {"model": "tiny", "messages": [{"role": "user", "content": "feed it"}], "max_tokens": 4}
        assert post(f"{url}/chat/completions", body)[0] == 401
        status, answer = post(f"{url}/chat/completions", body, Authorization="Bearer secret")
        assert status == 200 and answer["usage"]["completion_tokens"] == 4, json.dumps(answer)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert server.stderr.read().strip() == "bin/serve: interrupted"
