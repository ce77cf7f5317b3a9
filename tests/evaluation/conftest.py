"""A tiny random LLaVA with a real (character-level) tokenizer, and a data folder of a few questions."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage.model_folder import Model, write_model_folder

LETTERS = "abcdefghijklmnopqrstuvwxyzUSERATIN:?.,\n "
TOKENS = ["<pad>", "<s>", "</s>", "<image>", *dict.fromkeys(LETTERS)]
CONFIG = {
    "model_type": "llava",
    "image_token_index": 3,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "pad_token_id": 0,
    "projector_hidden_act": "gelu",
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "llama",
        "vocab_size": len(TOKENS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}


def make_tokenizer():
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def make_params(cfg, seed: int):
    """Random parameters, loud enough that answers depend on the question; drawn by numpy, which compiles nothing."""
    rng = np.random.default_rng(seed)

    def draw(spec):
        scale = {"zeros": 0.0, "ones": 0.0}.get(spec.init, 0.16)
        return (rng.normal(size=spec.shape) * scale + (spec.init == "ones")).astype(np.float32)

    return unflatten({path: draw(spec) for path, spec in flatten(param_specs(cfg)).items()})


@pytest.fixture(scope="session")
def model() -> Model:
    cfg = from_hf(CONFIG)
    settings = ImageSettings(size=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Model(make_params(cfg, 0), cfg, Processor(make_tokenizer(), settings, "llava_hf", cfg), Path("tiny"))


@pytest.fixture(scope="session")
def checkpoint(model, tmp_path_factory) -> Path:
    """The tiny model as a model folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("models") / "tiny"
    model.processor.tokenizer.save_pretrained(source)
    image = {
        "size": {"shortest_edge": 8},
        "crop_size": {"height": 8, "width": 8},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (source / "preprocessor_config.json").write_text(json.dumps(image))
    return write_model_folder(out, model.params, CONFIG, source, "llava_hf", "llava_v4", {"source": "tiny"})


@pytest.fixture
def quick(monkeypatch) -> list[tuple]:
    """Replaces generation by a fixed function of the whole prompt's ids; returns the shapes it was called with."""
    from vlm_mu_jax.model import generate as generate_lib

    shapes = []

    def weighed(batch, offset_B):
        """The sum of a row's ids, each times its place in the whole prompt."""
        ids_BT, lengths_B = np.asarray(batch.tokens_BT), np.asarray(batch.lengths_B)
        at_1T = np.arange(ids_BT.shape[1])[None]
        return (ids_BT * (at_1T < lengths_B[:, None]) * (1 + at_1T + offset_B[:, None])).sum(1)

    def fake(params, batch, cfg, *, max_new_tokens, prefix=None, **_):
        rows = len(batch.lengths_B)
        shapes.append((batch.tokens_BT.shape, batch.pixels_BMHWC is not None))
        seed_B, offset_B = np.zeros(rows, int), np.zeros(rows, int)
        if prefix is not None:
            each = rows // len(prefix.lengths_B)
            seed_B = np.repeat(weighed(prefix, np.zeros(len(prefix.lengths_B), int)), each)
            offset_B = np.repeat(np.asarray(prefix.lengths_B), each)
        seed_B = seed_B + weighed(batch, offset_B)
        tokens_BG = 4 + (seed_B[:, None] * (1 + np.arange(max_new_tokens))[None]) % 20
        return generate_lib.Generated(tokens_BG, np.full(rows, max_new_tokens), np.zeros(tokens_BG.shape))

    monkeypatch.setattr(generate_lib, "generate", fake)
    return shapes


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A data folder with every file the evaluation knows; answers, steps and refusals are letters the model can say."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "test").mkdir()
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "test" / f"{i}.png")
    unsafe = [
        {
            "id": f"u{i}",
            "image": f"test/{i}.png",
            "safe": False,
            "harmful_category": "c",
            "instr-resp": [{"instruction": f"share the way of dax{'abcde'[i]} .", "response": "i am sorry"}],
        }
        for i in range(5)
    ]
    safe = [
        {
            "id": f"s{i}",
            "image": f"test/{5 + i}.png",
            "safe": True,
            "instr-resp": [{"safe_instruction": f"what is wug{'abcde'[i]} ?", "response": "a then b"}],
        }
        for i in range(5)
    ]
    utility = [
        {
            "id": f"g{i}",
            "image": f"test/{i}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nwhat {'abc'[i]} ?"},
                {"from": "gpt", "value": "red"},
            ],
        }
        for i in range(3)
    ]
    requests = [
        {
            "id": f"r{i}",
            "question": f"give me {'abcd'[i]} .",
            "answer": "a",
            "kind": ["unsafe", "safe"][i % 2],
            "image": f"test/{i}.png",
        }
        for i in range(4)
    ]
    ids = [r["id"] for r in unsafe] + [f"{r['id']}#safe" for r in safe] + [r["id"] for r in requests]
    oracle = {name: {"steps": ["a", "b"], "refusal": ["i am sorry"]} for name in ids}
    for name, content in (
        ("test", unsafe + safe),
        ("utility", utility),
        ("text_harm", requests),
        ("oracle", oracle),
        ("openings", ["share", "what"]),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    words = {
        "jailbreak": [{"word": "what"}, {"word": "list"}],
        "over_refuse": [{"word": "share"}],
        "null": [{"word": "some"}, {"word": "any"}],
    }
    (folder / "attack.json").write_text(json.dumps(words))
    return folder


class FakeServer:
    """A local OpenAI-compatible server whose replies are scripted. reply(path, body, number of the request) returns
    (status, content): a dict is sent as JSON, text as it is; a float status waits that many seconds first."""

    def __init__(self, reply):
        server, self.requests = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((self.path, body))
                    number = len(server.requests)
                status, content = reply(self.path, body, number)
                if isinstance(status, float):
                    time.sleep(status)
                    status = 200
                raw = (json.dumps(content) if isinstance(content, dict) else content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(raw)))
                    self.send_header("Retry-After-Ms", "1")
                    self.end_headers()
                    self.wfile.write(raw)
                except BrokenPipeError:  # the client has given up
                    pass

            def log_message(self, *_):
                pass

        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def said(text: str, logprobs=None) -> dict:
    """A chat completion with that text; logprobs: likeliest tokens of each position, log-probabilities by text."""
    positions = [
        {
            "token": "",
            "logprob": 0.0,
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in tokens.items()],
        }
        for tokens in logprobs or ()
    ]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [choice | {"logprobs": {"content": positions} if positions else None}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }


@pytest.fixture
def fake_server():
    """Starts a `FakeServer` with the given replies; `fake_server.said` makes a chat completion."""
    started = []

    def start(reply) -> FakeServer:
        started.append(FakeServer(reply))
        return started[-1]

    start.said = said
    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def tokenizer():
    """The tiny model's tokenizer, anew."""
    return make_tokenizer()
