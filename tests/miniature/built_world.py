"""A built world's folder is an ordinary LLaVA checkpoint: what transformers makes of it."""

from pathlib import Path

import jax
import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlm_mu_jax.conversion.importer import Imported
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.model.vlm import forward


def assert_equal_transformers(checkpoint: Path, data: Path, processor: Processor, ours: Imported, count: int) -> None:
    """Prompt ids and logits of the first test questions."""
    theirs = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    their_processor = AutoProcessor.from_pretrained(str(checkpoint))
    records = readers.read(data / "test.json")
    for record in records[:count]:
        image = Image.open(records.image_path(record))
        content = [{"type": "image"}, {"type": "text", "text": record.question}]
        text = their_processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = their_processor(images=image, text=text, return_tensors="pt")
        batch = processor.pad([processor.prompt_ids(record.question)], [[processor.pixels(image)]], multiple=1)
        assert batch.tokens_BT.tolist() == inputs["input_ids"].tolist()
        with torch.no_grad():
            want = theirs(**inputs).logits.numpy()
        got = np.asarray(jax.jit(forward, static_argnums=2)(ours.params, batch, ours.config).logits_BTV)
        np.testing.assert_allclose(got, want, atol=1e-4)
