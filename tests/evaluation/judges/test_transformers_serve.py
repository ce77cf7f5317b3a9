"""The judge against a real OpenAI-compatible server: `transformers serve` with a tiny LLaVA that always says yes."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.judges import Case, rubrics
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.evaluation.judges.server import Server, ServerSettings

pytestmark = pytest.mark.slow
for _module in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(_module)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ '<image>\n' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endif %}\n"
    "{% endfor %}assistant :"
)
UNSAFE = Record("r", None, "q", "", "unsafe")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A LLaVA checkpoint whose next token depends on the last one alone: ":" is followed by "yes" and the end."""
    import torch
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    out = tmp_path_factory.mktemp("judge")
    vocabulary = len(tokenizer)
    text = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "clip_vision_model",
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=3, image_seq_length=4, tie_word_embeddings=False
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")) and "language_model" in name:
                weight.zero_()
        embed, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embed.copy_(torch.eye(vocabulary, 64))
        head.zero_()
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (":", "y", "e", "s", "</s>")]
        for a, b in zip(ids, ids[1:], strict=False):
            head[b, a] = 1.0
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.save_pretrained(out)
    images = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def served(folder):
    """Runs the server and gives its address; ends the process it started."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = open(folder / "server.log", "wb")  # noqa: SIM115 (open as long as the server)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(480):
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.5)
        else:
            raise AssertionError((folder / "server.log").read_text()[-3000:])
        yield url, process
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_a_real_server_judges_and_its_end_is_an_error(folder, served, tmp_path):
    url, process = served
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (0, 200, 0)).save(picture)
    settings = ServerSettings(url, str(folder), timeout=120, retries=0, concurrency=2)

    def judge(name: str) -> tuple[ModelJudge, Server]:
        backend = Server(settings)
        return ModelJudge(rubrics.get("harm"), backend, JudgeCache(tmp_path / f"{name}.jsonl")), backend

    many, plain = judge("many")
    labels = many.many([Case("share it", answer, UNSAFE) for answer in ("press it", "turn it", "wait")])
    # this server gives no log-probabilities: a verdict, and no probability made up
    assert [(one.label, one.error, one.probability) for one in labels] == [("answered", None, None)] * 3
    assert plain.cost()["failed"] == 0 and plain.cost()["completion_tokens"] >= 9  # y, e, s three times
    (seeing, with_image), (blind, without) = judge("seeing"), judge("blind")
    for one, image in ((seeing, picture), (blind, None)):
        (label,) = one.many([Case("share it", "press it", UNSAFE, image, "one")])
        assert (label.label, label.error) == ("answered", None)
    # the same words and, before them, the image: 4 patches and a line break
    assert with_image.cost()["prompt_tokens"] - without.cost()["prompt_tokens"] == 5
    process.terminate()
    process.wait(30)
    (gone,) = judge("gone")[0].many([Case("share it", "press it", UNSAFE)])
    assert gone.label is None and "APIConnectionError" in gone.error
