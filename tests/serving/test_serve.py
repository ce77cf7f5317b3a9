"""What `bin/serve` makes of its flags, and the command itself."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.command import ROOT
from tests.serving.running import post
from vlm_mu_jax.conversion.convert import ConvertOptions, convert
from vlm_mu_jax.conversion.exporter import export
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.one_answer import answer
from vlm_mu_jax.serving import serve as module
from vlm_mu_jax.serving.engine import Answering
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.serving.serve import ServedFolders, ServeOptions, folder_name, open_engines, serve
from vlm_mu_jax.storage.model_folder import load


@pytest.fixture(scope="module")
def guards(split_guard, tmp_path_factory):
    """The folder of a guard of the tiny model."""
    folder = tmp_path_factory.mktemp("guards") / "careful"
    split_guard.save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(home, tmp_path_factory):
    """The folder of a LoRA adapter of the tiny model, whose answers differ from the model's."""
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    folder.mkdir()
    rng, D = np.random.default_rng(0), home.config.text.D
    pair = {"A": rng.normal(size=(2, D)), "B": rng.normal(size=(home.config.text.V, 2))}
    names = {f"base_model.model.lm_head.lora_{half}.weight": np.float32(value) for half, value in pair.items()}
    save_file(names, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


def names(checkpoints, guards=(), **adapters):
    said = []
    engines = open_engines(ServedFolders(checkpoints, guards, adapters), ServeOptions(rows=1), said.append)
    assert len(said) == len(checkpoints) + len(adapters)
    return [(engine.name, engine.guard is not None) for engine in engines]


def test_a_guard_adds_a_model_that_is_called_after_both(home, guards):
    assert folder_name(home.folder) == home.folder.parent.name, "the folder `model` says nothing"
    one, both = {"a": home.folder}, {"a": home.folder, "b": home.folder}
    assert names(one, [(None, guards)]) == [("a", False), ("a+careful", True)]
    assert names(both, [("b", guards)]) == [("a", False), ("b", False), ("b+careful", True)]
    for given, models in (((None, guards), both), (("c", guards), one)):
        with pytest.raises(InputError, match=f"whose guard is it.*--guard=MODEL=.*{', '.join(models)}"):
            names(models, [given])
    with pytest.raises(InputError, match="two guards"):
        names(one, [(None, guards), ("a", guards)])


def test_an_adapter_is_a_further_model_and_says_whose_it_is_among_several(home, adapter):
    one, two = {"a": home.folder}, {"a": home.folder, "b": home.folder}
    assert names(one, npo=adapter) == [("a", False), ("npo", False)]
    assert names(two, **{"a+npo": adapter}) == [("a", False), ("a+npo", False), ("b", False)]
    with pytest.raises(InputError, match="whose adapter is it.*--adapter=MODEL.NAME=.*of a, b"):
        names(two, npo=adapter)
    with pytest.raises(InputError, match="called 'a' already"):
        names(one, a=adapter)
    with pytest.raises(InputError, match="no LoRA adapter"):
        names(one, npo=home.folder)


def test_an_adapter_answers_as_the_model_that_it_is_merged_into(home, adapter, tmp_path):
    model = load(home.folder)
    folder = tmp_path / "merged"
    export(home.folder, tmp_path / "hf")
    convert(tmp_path / "hf", folder, ConvertOptions(lora=adapter))
    wanted = answer(load(folder), "feed it", max_new_tokens=4).token_ids
    assert wanted != answer(model, "feed it", max_new_tokens=4).token_ids, "the adapter must do something"
    engine = open_engines(ServedFolders({"a": home.folder}, adapters={"npo": adapter}), ServeOptions(rows=1))[1]
    made = []
    ids = tuple(engine.model.processor.prompt_ids("feed it", 0))
    engine.submit([Answering(ServedPrompt(ids, text_ids=ids), 4, made.append)])
    while engine.turn():
        pass
    assert [token.id for token in made] == wanted


def test_what_cannot_be_served_is_said_before_a_model_is_loaded(home, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load", lambda _: pytest.fail("loaded"))
    (tmp_path / "keys").write_text("# none\n\n")
    folders = ServedFolders({"a": home.folder})
    with pytest.raises(InputError, match="holds no API key"):
        serve(folders, ServeOptions(key_file=str(tmp_path / "keys")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port}: .*choose another"):
            serve(folders, ServeOptions(port=port))
    with pytest.raises(InputError, match="--host=no.such.host"):
        serve(folders, ServeOptions(host="no.such.host", port=0))


@contextlib.contextmanager
def interrupts_heard():
    """What runs in the background of a shell ignores SIGINT, and so does what it starts."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_command_serves_until_it_is_told_to_stop(home, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    words = [sys.executable, "-m", "vlm_mu_jax.cli.serve", f"--checkpoint=tiny={home.folder}", "--port=0", "--rows=1"]
    words.append(f"--api_key_file={tmp_path / 'keys'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        interrupts_heard(),
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server,
    ):
        line = next(line for line in server.stdout if line.startswith("serving tiny at http://127.0.0.1:"))
        url = line.split()[-1]
        body = {"model": "tiny", "messages": [{"role": "user", "content": "feed it"}], "max_tokens": 4}
        assert post(f"{url}/chat/completions", body)[0] == 401
        status, answer = post(f"{url}/chat/completions", body, Authorization="Bearer secret")
        assert status == 200 and answer["usage"]["completion_tokens"] == 4, json.dumps(answer)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert server.stderr.read().strip() == "bin/serve: interrupted"
