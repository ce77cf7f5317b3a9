"""Image files to normalised pixels, as the checkpoint's own image processor does it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlm_mu_jax.errors import InputError

BLANK_KINDS = ("white", "black", "mean", "noise")


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """Resize the shortest edge (bicubic), crop the centre, scale by `rescale`, normalise. Mean and std per channel."""

    size: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float = 1 / 255
    resample: int = 3  # PIL bicubic
    pad_to_square: bool = False  # LLaVA training pads with the mean colour; the HF processor crops


def read_settings(folder: Path, image_size: int) -> ImageSettings:
    """Settings from `preprocessor_config.json`, or the `image_processor` part of `processor_config.json`."""
    config: dict = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            config = json.loads((folder / name).read_text())
            config = config.get("image_processor", config)
            if "image_mean" in config:
                break
    size, crop = config.get("size", image_size), config.get("crop_size", image_size)
    return ImageSettings(
        size=size if isinstance(size, int) else size.get("shortest_edge", size.get("height", image_size)),
        crop=crop if isinstance(crop, int) else crop.get("height", image_size),
        mean=tuple(config.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
        std=tuple(config.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
        rescale=config.get("rescale_factor", 1 / 255),
        resample=config.get("resample", 3),
        pad_to_square=bool(config.get("do_pad", False)),
    )


def load(path: str | Path) -> Image.Image:
    """An RGB image.

    Raises:
      InputError: the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image; use PNG or JPEG") from error


def blank(kind: str, size: int, settings: ImageSettings, seed: int = 0) -> Image.Image:
    """An image without content: white, black, the normalisation mean, or uniform noise."""
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))
    colours = {"white": (255,) * 3, "black": (0,) * 3, "mean": tuple(round(255 * m) for m in settings.mean)}
    if kind not in colours:
        raise InputError(f"blank image {kind!r} is unknown; use one of {', '.join(BLANK_KINDS)}")
    return Image.new("RGB", (size, size), colours[kind])


def to_pixels(image: Image.Image, settings: ImageSettings) -> np.ndarray:
    """float32 [crop, crop, 3]; the steps and rounding of transformers' CLIPImageProcessor (PIL backend)."""
    if settings.pad_to_square and image.width != image.height:
        image = _pad(image, settings)
    scale = settings.size / min(image.size)
    target = (int(image.width * scale), int(image.height * scale))
    target = tuple(
        settings.size if side == min(image.size) else new for side, new in zip(image.size, target, strict=True)
    )
    if target != image.size:
        image = image.resize(target, resample=settings.resample)
    left, top = (image.width - settings.crop) // 2, (image.height - settings.crop) // 2
    image = image.crop((left, top, left + settings.crop, top + settings.crop))
    pixels = np.asarray(image, np.float32) * np.float32(settings.rescale)
    return (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)


def _pad(image: Image.Image, settings: ImageSettings) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in settings.mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
