"""Image files to normalised pixels, as the checkpoint's own image processor does it."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vlm_mu_jax.data.image_settings import ImageSettings
from vlm_mu_jax.errors import InputError

ID_DIGITS = 16
BLANK_KINDS = ("white", "black", "mean", "noise")


def load(path: str | Path) -> Image.Image:
    """An RGB image, turned as its EXIF orientation says (as transformers' `load_image` does).

    Raises:
      InputError: the file is missing or is no image.
    """
    with _opened(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def content_id(content: bytes) -> str:
    """A short name of an image file's content: answers name their images by it, and reports find them again."""
    return hashlib.sha256(content).hexdigest()[:ID_DIGITS]


def image_id(path: str | Path) -> str:
    """`content_id` of a file. Raises InputError when it cannot be read."""
    try:
        return content_id(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: image cannot be read ({error.strerror}); check the data folder") from None


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
    """A picture without content: white, black, the colour that normalises to nearly zero (the mean), or noise."""
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))
    mean = tuple(min(255, max(0, round(m / settings.rescale))) for m in settings.mean)
    colours = {
        "white": (255,) * 3,
        "black": (0,) * 3,
        "mean": mean,
    }
    if kind not in colours:
        raise InputError(f"blank image {kind!r} is unknown; use one of {', '.join(BLANK_KINDS)}")
    return Image.new("RGB", (size, size), colours[kind])


def to_pixels(image: Image.Image, settings: ImageSettings) -> np.ndarray:
    """The pixels that the vision tower reads: float32 [crop, crop, 3].

    The steps, their order and their rounding are those of transformers' CLIPImageProcessor (PIL backend).
    """
    image = to_rgb(image)
    if settings.pad_to_square and image.width != image.height:
        image = to_square(image, tuple(int(255 * m) for m in settings.mean))
    target = resized(image.width, image.height, settings) if settings.resize else image.size
    if target != image.size:
        image = image.resize(target, resample=settings.resample)
    if settings.centre:
        left, top = (image.width - settings.crop) // 2, (image.height - settings.crop) // 2
        image = image.crop((left, top, left + settings.crop, top + settings.crop))
    return normalised(image, settings)


def normalised(image: Image.Image, settings: ImageSettings) -> np.ndarray:
    """An RGB picture's values, scaled and normalised: float32 [H, W, 3]."""
    pixels = (np.asarray(image, np.float64) * settings.rescale).astype(np.float32)
    return (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)


def resized(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """(width, height) after the resize. The long edge is rounded down, as transformers and torchvision do."""
    if settings.stretch:
        return settings.size, settings.size
    short, long = min(width, height), int(settings.size * max(width, height) / min(width, height))
    return (settings.size, long) if width == short else (long, settings.size)


def to_square(image: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    """Padded with a colour, 0..255, the picture in the middle."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
