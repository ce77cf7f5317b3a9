"""bin/bench serve: clients of one server, ours and `transformers serve`, on the same text model.

1, 8 and 32 clients send one streamed request each at the same time: a greedy answer of 64 tokens to a prompt of their
own. Rows `tokens_N` are tokens a second of all clients together; rows `first_token_N` are one over the median seconds
to a client's first token. The size "small" is that of SmolLM2-135M, with random weights. Each side is a process of its
own; while one is asked the other waits.
"""

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax import progress
from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.conversion.exporter import export_params
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage.model_folder import write_model_folder

NEW_TOKENS, PROMPT_WORDS = 64, 32
CLIENTS = {"tiny": (1, 4)}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
CHAT = "{% for m in messages %}{{ m['content'] if m['content'] is string else m['content'][0]['text'] }} {% endfor %}"
_START_SECONDS = 600


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `tokens_N` in tokens/s and `first_token_N` in 1/s."""
    if find_spec("torch") is None or find_spec("fastapi") is None:
        raise InputError("bin/bench serve needs torch and transformers[serving]; pip install vlm_mu_jax[test]")
    ours, theirs = _write_models(options)
    address = {"ours": _free_port(), "peer": _free_port()}
    peer = ["-c", "from transformers.cli.transformers import main; main()", "serve", str(theirs)]
    peer += ["--host", "127.0.0.1", "--port", str(address["peer"]), "--device", "cpu"]
    own = ["-m", "vlm_mu_jax.cli.serve", f"--checkpoint=model={ours}", f"--port={address['ours']}", "--rows=32"]
    name = {"ours": "model", "peer": str(theirs)}
    rows = []
    with _server(own, address["ours"], options.workdir), _server(peer, address["peer"], options.workdir):
        for clients in CLIENTS.get(options.size, (1, 8, 32)):
            prompts = _prompts(clients, options)
            sides = {side: _Side(address[side], name[side], prompts) for side in ("ours", "peer")}
            texts = {side: one.run() for side, one in sides.items()}  # also the warm-up
            same = np.mean([a == b for a, b in zip(texts["ours"], texts["peer"], strict=True)])
            if same < 0.87:  # a near-tie may fall the other way
                raise JobError(f"{clients} clients: {same:.0%} of the answers are the same; times cannot be compared")
            for side in sides.values():
                side.forget()
            for _ in progress.bar(range(options.repeats), f"{clients} clients"):
                for side in sides.values():
                    side.run()
            rows += [
                timing.row(f"tokens_{clients}", sides["ours"].speed, sides["peer"].speed, "tokens/s"),
                timing.row(f"first_token_{clients}", 1 / sides["ours"].first, 1 / sides["peer"].first, "1/s"),
            ]
    about = {"versions": {name: version(name) for name in ("torch", "transformers")}, "device": "cpu"}
    return timing.result("serve", rows, about)


class _Side:
    """Clients of one server, each with its prompt. speed: tokens/s. first: median seconds to the first token."""

    def __init__(self, port: int, model: str, prompts: list[str]):
        self.port, self.model, self.prompts = port, model, prompts
        self.forget()

    def forget(self) -> None:
        self._speeds: list[float] = []
        self._firsts: list[float] = []

    @property
    def speed(self) -> float:
        return statistics.median(self._speeds)

    @property
    def first(self) -> float:
        return statistics.median(self._firsts)

    def run(self) -> list[str]:
        """One request of every client, all at once; their answers."""
        texts = [""] * len(self.prompts)

        def ask(i: int) -> None:
            texts[i] = self._ask(self.prompts[i])

        start = time.perf_counter()
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._speeds.append(sum(len(text.split()) for text in texts) / (time.perf_counter() - start))
        return texts

    def _ask(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        start, text = time.perf_counter(), ""
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body | {"max_tokens": NEW_TOKENS}),
            {"Content-Type": "application/json"},
        )
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:]).get("choices")
            new = (choices[0]["delta"].get("content") or "") if choices else ""
            if new and not text:
                self._firsts.append(time.perf_counter() - start)
            text += new
        return text


def _prompts(clients: int, options: BenchmarkOptions) -> list[str]:
    rng = np.random.default_rng(options.seed)
    vocabulary = _text_size(options)["vocab_size"]
    return [" ".join(f"w{i}" for i in rng.integers(4, vocabulary, PROMPT_WORDS)) for _ in range(clients)]


def _text_size(options: BenchmarkOptions) -> dict[str, Any]:
    return SMOLLM2 if options.size == "small" else random_models.SIZES[options.size][0]


def _write_models(options: BenchmarkOptions) -> tuple[Path, Path]:
    """The same random model as a folder of ours and as a Hugging Face checkpoint. A token is a word: the words
    of an answer count its tokens."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    } | _text_size(options)
    rng = np.random.default_rng(options.seed)

    def draw(spec: Any) -> np.ndarray:
        if spec.init == "ones":
            return np.ones(spec.shape, np.float32)
        return rng.normal(0, 0.05, spec.shape).astype(np.float32)

    params = unflatten({path: draw(spec) for path, spec in flatten(param_specs(from_hf(config))).items()})
    files = options.workdir / "tokenizer"
    _write_tokenizer(files, config["vocab_size"])
    theirs = export_params(options.workdir / "hf", params, config, files)
    ours = write_model_folder(options.workdir / "ours", params, config, files, "own", "text", {"source": "random"})
    return ours, theirs


def _write_tokenizer(folder: Path, size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"w{i}" for i in range(len(special), size)]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def _server(words: list[str], port: int, workdir: Path) -> Iterator[None]:
    """Runs a server until it is no longer needed. Raises JobError when it does not come up."""
    log = workdir / f"server_{port}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(workdir)}
    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, *words], env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            end = time.monotonic() + _START_SECONDS
            while not _up(port):
                if process.poll() is not None or time.monotonic() > end:
                    last = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise JobError(f"a server did not start: {' '.join(last) or 'it printed nothing'}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()


def _up(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False
