"""Image files to normalised pixels, as the checkpoint's own image processor does it."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

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
    stretch: bool = False  # both edges become `size`, whatever the image's shape
    pinpoints: tuple[tuple[int, int], ...] = ()  # LLaVA-NeXT, see data/anyres.py; () = the file does not say


def read_settings(folder: Path, image_size: int) -> ImageSettings:
    """Settings from `preprocessor_config.json`, or the `image_processor` part of `processor_config.json`.

    Raises:
      InputError: a file is not JSON or has a field of the wrong kind.
    """
    config: dict = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            config = _read_json(folder / name)
            config = config.get("image_processor", config)
            if "image_mean" in config:
                break
    try:
        return _settings(config, image_size)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: the image processor's config has a wrong field ({error}); restore it") from error


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); restore the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object; restore the file")
    return content


def _settings(config: dict, image_size: int) -> ImageSettings:
    size, crop = config.get("size", image_size), config.get("crop_size", image_size)
    size = {"shortest_edge": size} if isinstance(size, int) else size
    pinpoints = tuple(tuple(sides) for sides in config.get("image_grid_pinpoints") or ())
    pads = str(config.get("image_processor_type", "LlavaImageProcessor")).startswith("LlavaImageProcessor")
    return ImageSettings(
        size=int(size.get("shortest_edge") or size.get("height") or image_size),
        crop=crop if isinstance(crop, int) else int(crop.get("height") or image_size),
        mean=tuple(float(m) for m in config.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
        std=tuple(float(s) for s in config.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
        rescale=float(config.get("rescale_factor", 1 / 255)),
        resample=int(config.get("resample", 3)),
        pad_to_square=pads and not pinpoints and bool(config.get("do_pad", False)),  # elsewhere do_pad pads batches
        stretch="shortest_edge" not in size and "height" in size,
        pinpoints=pinpoints,
    )


def load(path: str | Path) -> Image.Image:
    """An RGB image, turned as its EXIF orientation says (as transformers' `load_image` does).

    Raises:
      InputError: the file is missing or is no image.
    """
    with _opened(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def size_of(path: str | Path) -> tuple[int, int]:
    """(height, width) of what `load` gives, read once per file, and if possible off its header.

    Raises:
      InputError: the file is missing or is no image.
    """
    try:
        return _size_of(str(path), Path(path).stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error


@functools.lru_cache(maxsize=100_000)
def _size_of(path: str, changed: int) -> tuple[int, int]:
    with _opened(path) as image:
        if image.format == "TIFF":  # Pillow turns these itself, which version at which time
            return ImageOps.exif_transpose(image).size[::-1]
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size if turned else image.size[::-1]


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error
    except Exception as error:  # damaged files, their EXIF too, make Pillow raise anything
        raise InputError(f"{path}: not a readable image; use PNG or JPEG") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent parts on white: transformers 5 does so; dropping alpha would show colours that nobody sees."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image).convert("RGB")


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
    image = to_rgb(image)
    if settings.pad_to_square and image.width != image.height:
        image = _pad(image, settings)
    target = _resized(image.width, image.height, settings)
    if target != image.size:
        image = image.resize(target, resample=settings.resample)
    left, top = (image.width - settings.crop) // 2, (image.height - settings.crop) // 2
    image = image.crop((left, top, left + settings.crop, top + settings.crop))
    pixels = (np.asarray(image, np.float64) * settings.rescale).astype(np.float32)
    return (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)


def _resized(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """(width, height) after the resize. The long edge is rounded down, as transformers and torchvision do."""
    if settings.stretch:
        return settings.size, settings.size
    short, long = min(width, height), int(settings.size * max(width, height) / min(width, height))
    return (settings.size, long) if width == short else (long, settings.size)


def _pad(image: Image.Image, settings: ImageSettings) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in settings.mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
