"""Builds the miniature: world, tokenizer, four lessons of training, and an ordinary Hugging Face LLaVA folder."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.conversion.exporter import export_params
from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.miniature import language
from vlm_mu_jax.miniature import world as w
from vlm_mu_jax.miniature.curriculum import Lessons
from vlm_mu_jax.miniature.dataset import DatasetWriter
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import Params, flatten, init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training.loop import fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import Observers, TrainingSpec
from vlm_mu_jax.training.trainable import Selection


@dataclasses.dataclass(frozen=True)
class Lesson:
    """One lesson of the curriculum.

    name: a method of `Lessons`.
    rows: how many distinct rows are drawn.
    select: the parameters that learn.
    last: of the decoder's blocks, only so many of the last ones learn, and nothing of `select`; 0 = as `select` says.
    """

    name: str
    steps: int
    learning_rate: float
    rows: int
    select: tuple[str, ...] = ("decoder/.*",)
    last: int = 0


LESSONS = (
    Lesson("pretraining", 300, 3e-3, 8000),
    Lesson("alignment", 80, 5e-4, 3000),
    Lesson("seeing", 250, 3e-3, 6000, ("vision/.*", "projector/.*")),
    Lesson("visual_tuning", 150, 5e-4, 5000, ("decoder/.*", "projector/.*")),
)
BATCH = 64
PATCH = 8
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Miniature:
    """What `build_miniature` wrote.

    checkpoint: a Hugging Face LLaVA folder.
    data: the folder of its data files.
    """

    checkpoint: Path
    data: Path


def build_miniature(
    out: str | Path, seed: int = 0, progress: Progress | None = None, lessons: tuple[Lesson, ...] = LESSONS
) -> Miniature:
    """Trains the miniature from scratch and writes it with its data. It takes about three minutes on two cores.

    Args:
      out: the folder to write. `out/data` comes first, and `out/hf` when training is complete.
      seed: decides words, procedures, signs, data, initial weights and batches.
      progress: shown over training steps; None is silent.
      lessons: the curriculum. Tests shorten it.

    Example:
      mini = vlm_mu_jax.build_miniature("runs/mini")
      vlm_mu_jax.convert(mini.checkpoint, "runs/base")
    """
    out = resolved(out)
    world = w.make_world(seed)
    tokenizer = language.train_tokenizer(language.all_text(world))
    config = hf_config(tokenizer)
    cfg = from_hf(config)
    processor = Processor(tokenizer, _image_settings(), "llava_hf", cfg)
    (out / "data").mkdir(parents=True, exist_ok=True)
    DatasetWriter(out / "data", world, seed).write()
    params = init_params(param_specs(cfg), jax.random.key(seed))
    params = educate(params, cfg, Lessons(world, processor, seed), seed, progress, lessons, BATCH)
    with tempfile.TemporaryDirectory() as companions:
        write_companions(Path(companions), tokenizer)
        export_params(out / "hf", params, config, companions)
    return Miniature(out / "hf", out / "data")


def educate(
    params: Params,
    cfg: ModelConfig,
    lessons: Lessons,
    seed: int,
    progress: Progress | None,
    plan: tuple[Lesson, ...],
    batch: int,
) -> Params:
    """The parameters after one lesson after the other. batch: rows of a step."""
    for lesson in plan:
        rows = lessons.rows(lesson.name, lesson.rows, seed)
        spec = TrainingSpec(
            cfg,
            make_objective("lm"),
            OptimConfig(lesson.learning_rate, final=0.02, weight_decay=0.01),
            lesson.steps,
            _learning(lesson, cfg),
            seed=seed,
        )
        watch = Observers(progress, f"miniature: {lesson.name.replace('_', ' ')}")
        params = fit(spec, params, {"train": Stream(rows, batch, seed, name=lesson.name)}, observers=watch).params
    return params


def _learning(lesson: Lesson, cfg: ModelConfig) -> Selection:
    if not lesson.last:
        return Selection(select=lesson.select)
    layers = range(max(0, cfg.text.L - lesson.last), cfg.text.L)
    stacks = [path for path, spec in flatten(param_specs(cfg)["decoder"]).items() if spec.axes[0] == "layers"]
    return Selection.of((), {f"decoder/{path}": layers for path in stacks})


def hf_config(tokenizer: Any) -> dict[str, Any]:
    """The content of config.json in llava-hf's spelling: 16 image tokens, width 128, 4 layers, 4 heads."""
    common = {"torch_dtype": "float32", "initializer_range": 0.02}
    text = {
        "model_type": "llama",
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 256,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        **common,
    }
    return llava_config(text, tokenizer.convert_tokens_to_ids("<image>"), w.IMAGE_SIZE, PATCH)


def llava_config(text: dict[str, Any], image_token: int, image_size: int, patch: int) -> dict[str, Any]:
    """The content of config.json of a LLaVA with a small CLIP tower, width 64.

    Args:
      text: of its language model.
      image_token: id of the placeholder.
      image_size, patch: sides of a picture and of its patches, in pixels.
    """
    vision = {
        "model_type": "clip_vision_model",
        "image_size": image_size,
        "patch_size": patch,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 64,
        "num_channels": 3,
        "torch_dtype": "float32",
        "initializer_range": 0.02,
    }
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text,
        "vision_config": vision,
        "image_token_index": image_token,
        "image_seq_length": (image_size // patch) ** 2,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _image_settings() -> ImageSettings:
    return ImageSettings(w.IMAGE_SIZE, w.IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3)


def write_companions(
    folder: Path,
    tokenizer: Any,
    template: str = CHAT_TEMPLATE,
    settings: ImageSettings | None = None,
    patch: int = PATCH,
) -> None:
    """Writes tokenizer, image processor and chat template files as transformers reads them."""
    settings = settings or _image_settings()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    size = {"height": settings.crop, "width": settings.crop}
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": settings.size},
        "resample": settings.resample,
        "do_center_crop": True,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": settings.rescale,
        "do_normalize": True,
        "image_mean": settings.mean,
        "image_std": settings.std,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": patch,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    generation = {**ids, "do_sample": False}
    files = {"preprocessor_config": preprocessor, "processor_config": processor, "generation_config": generation}
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
