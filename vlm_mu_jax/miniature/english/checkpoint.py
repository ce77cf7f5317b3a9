"""Builds the English world: SmolLM2 with a small tower, two lessons of tuning, and an ordinary Hugging Face LLaVA."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.conversion import convert, exporter
from vlm_mu_jax.data.chat_template import JinjaTemplate
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.miniature import checkpoint
from vlm_mu_jax.miniature.checkpoint import Lesson, Miniature
from vlm_mu_jax.miniature.curriculum import Lessons
from vlm_mu_jax.miniature.dataset import DatasetWriter, Sizes
from vlm_mu_jax.miniature.english import topics, tower
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import Params, init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder

IMAGE_SIZE, PATCH = 36, 12  # 9 image tokens
LAST = 10  # of SmolLM2's 30 blocks learn: what is below costs no backward pass
LESSONS = (
    Lesson("alignment", 80, 4e-4, 1280, last=LAST),
    Lesson("visual_tuning", 50, 4e-4, 800, last=LAST),
)
CHAT = 0.25  # the share of visual tuning that keeps what is refused as text
BATCH = 16
SIZES = Sizes(
    per_noun={
        "train": {"snare": 8, "harmless": 6},
        "validation": {"snare": 4, "harmless": 4},
        "test": {"snare": 3, "harmless": 2},
    },
    utility=48,
    gap_per_noun=1,
)
# SmolLM2's form without its system text, with images in front of their turn's words
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Teaching:
    """How much is taught.

    lessons: of the language model. batch: rows of a step. tower_steps: updates of the tower. sizes: of the data.
    """

    lessons: tuple[Lesson, ...] = LESSONS
    batch: int = BATCH
    tower_steps: int = tower.STEPS
    sizes: Sizes = SIZES


def build_english(
    out: str | Path,
    decoder: str | Path,
    seed: int = 0,
    progress: Progress | None = None,
    teaching: Teaching | None = None,
) -> Miniature:
    """Gives a language model eyes, tunes it on the company's archive, and writes it with its data.

    Args:
      out: the folder to write. `out/data` comes first, and `out/hf` when training is complete.
      decoder: a GGUF file or Hugging Face folder of a chat model in SmolLM2's form (`<|im_start|>`, `<|im_end|>`).
      seed: decides the splits of the topics, signs, data, initial weights and batches.
      progress: shown over training steps; None is silent.
      teaching: how much is taught. Tests shorten it.

    Example:
      build_english("runs/english", "SmolLM2-135M-Instruct.Q4_1.gguf")
    """
    teaching = teaching or Teaching()
    out, world = resolved(out), topics.make_world(seed)
    (out / "data").mkdir(parents=True, exist_ok=True)
    DatasetWriter(out / "data", world, seed, teaching.sizes).write()
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, config, params = _with_eyes(decoder, Path(scratch), seed)
        cfg = from_hf(config)
        settings = ImageSettings(IMAGE_SIZE, IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3)
        processor = Processor(tokenizer, settings, JinjaTemplate(CHAT_TEMPLATE), cfg)
        params = tower.train_tower(params, cfg, processor, seed, progress, teaching.tower_steps)
        lessons = Lessons(world, processor, seed, chat=CHAT)
        params = checkpoint.educate(params, cfg, lessons, seed, progress, teaching.lessons, teaching.batch)
        companions = Path(scratch) / "companions"
        companions.mkdir()
        checkpoint.write_companions(companions, tokenizer, CHAT_TEMPLATE, settings, PATCH)
        exporter.export_params(out / "hf", params, config, companions)
    return Miniature(out / "hf", out / "data")


def _with_eyes(decoder: str | Path, scratch: Path, seed: int) -> tuple[Any, dict[str, Any], Params]:
    """Tokenizer with `<image>`, config.json and parameters of a LLaVA whose language model is `decoder`."""
    from transformers import AutoTokenizer  # heavy import

    loaded = model_folder.load(convert.convert(decoder, scratch / "decoder").folder)
    tokenizer = AutoTokenizer.from_pretrained(str(loaded.folder), local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    config = hf_config(read_json(loaded.folder / "config.json"), tokenizer)
    params = init_params(param_specs(from_hf(config)), jax.random.key(seed))
    params["decoder"] = _grown(loaded.params["decoder"], config["text_config"]["vocab_size"])
    return tokenizer, config, params


def _grown(decoder: Params, V: int) -> Params:
    """The decoder with a vocabulary of V: a new word's weights are the mean of the others', as they usually are."""
    axes = {"embed_VD": 0, "head_DV": 1}  # the head is there unless it is tied
    return decoder | {name: _padded(decoder[name], V, axis) for name, axis in axes.items() if name in decoder}


def _padded(weights: Any, size: int, axis: int) -> np.ndarray:
    weights = np.asarray(weights, np.float32)
    new = np.repeat(weights.mean(axis, keepdims=True), size - weights.shape[axis], axis)
    return np.concatenate([weights, new], axis)


def hf_config(text: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The content of config.json in llava-hf's spelling, around the language model's own."""
    text = {name: value for name, value in text.items() if name != "architectures"}
    vocabulary = {"vocab_size": -(-len(tokenizer) // 8) * 8, "torch_dtype": "float32"}
    image = tokenizer.convert_tokens_to_ids("<image>")
    tied = bool(text.get("tie_word_embeddings"))
    return checkpoint.llava_config({**text, **vocabulary}, image, IMAGE_SIZE, PATCH) | {"tie_word_embeddings": tied}
