"""A family whose pictures have sizes, tiles or positions of their own is served as it answers alone."""

import numpy as np
import pytest
from PIL import Image

import vlm_mu_jax
from tests.families import FAMILIES
from tests.serving.test_engine import Client, serve
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.serving import engine as module
from vlm_mu_jax.serving.engine import Engine
from vlm_mu_jax.serving.prompt_runs import ServedPrompt

G = 5


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl"])
def test_pictures_of_two_sizes_and_a_text(name, tmp_path, monkeypatch):
    FAMILIES[name].write(tmp_path / "hf")
    vlm_mu_jax.convert(tmp_path / "hf", tmp_path / "ours")
    model = vlm_mu_jax.load(tmp_path / "ours")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((24, 40), (16, 16))]
    prompts = []
    for shown in (pictures[:1], pictures[1:], []):
        turn = Turn("user", (*[ImagePart("image")] * len(shown), "What is this?"))
        ids = tuple(model.processor.conversation_ids([turn], shown))
        pixels = tuple(map(model.processor.pixels, shown))
        prompts.append(ServedPrompt(ids, pixels, tuple(str(one.size) for one in shown), ids))
    batch = model.processor.pad([list(p.ids) for p in prompts], [list(p.pixels) for p in prompts])
    made = generate(model.params, batch, model.config, max_new_tokens=G)
    want = [np.asarray(made.tokens_BG)[i, : made.lengths_B[i]].tolist() for i in range(3)]
    clients = [Client(prompt, G) for prompt in prompts]
    monkeypatch.setattr(module, "WIDTH", 16)  # the batch has to grow, in rows and in width
    serve(Engine(name, model, rows=3), clients)
    assert [client.ids for client in clients] == want
    logprobs = [token.logprob for client in clients for token in client.tokens]
    np.testing.assert_allclose(
        logprobs, np.concatenate([np.asarray(made.logprobs_BG)[i, : made.lengths_B[i]] for i in range(3)]), atol=1e-4
    )
