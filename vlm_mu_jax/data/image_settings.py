"""What a checkpoint's image processor does to a picture, read from its files.

Every field that changes pixels is honoured as transformers honours it, or refused by name. Which classes of image
processors there are, and what a field means to one of them, the model families say (`ImageProcessorKind`). Sources:
transformers image_processing_base.py (which file counts), image_processing_backends.py (defaults), CLIPImageProcessor.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.families import IMAGE_PROCESSORS
from vlm_mu_jax.model.image_plans.image_plan import ImagePlan, ImageProcessorKind

FILES = ("processor_config.json", "preprocessor_config.json")  # the first that describes an image processor counts
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_RESAMPLES = range(6)  # PIL.Image.Resampling
_BACKENDS = ("Fast", "Pil")  # endings of the same processor's name; their pixels differ by rounding at most
_READ = {
    "do_resize",
    "size",
    "default_to_square",
    "use_square_size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
    "image_processor_type",
    "feature_extractor_type",
}
# Fields that change no pixel of an RGB picture, and pictures are RGB before they come here (transformers' load_image).
_NEUTRAL = {
    "do_convert_rgb",
    "processor_class",
    "auto_map",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "image_seq_length",
    "backend",
    "use_fast",
    "_valid_processor_keys",
}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """The steps from a picture to pixels: pad, resize, crop the centre, scale, normalise.

    Attributes:
      size: length of the shorter edge after the resize, or of both with `stretch`.
      crop: side of the square that comes out.
      mean, std: per channel, of values that are scaled already.
      rescale: what the values 0..255 are multiplied by.
      resample: the filter of the resize, a `PIL.Image.Resampling`.
      pad_to_square: first pad to a square with the mean colour, as LLaVA's training does.
      stretch: both edges become `size`, whatever the picture's shape.
      resize: False leaves the picture's size as it is.
      centre: False crops nothing.
      drawn: side of the pictures that are drawn for the model, such as blank ones; None = that of `crop`.
    """

    size: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float = 1 / 255
    resample: int = 3
    pad_to_square: bool = False
    stretch: bool = False
    resize: bool = True
    centre: bool = True
    drawn: int | None = None

    @property
    def side(self) -> int:
        """Side of a picture that is drawn for the model."""
        return self.drawn or self.crop


def read_settings(folder: Path, image_size: int) -> ImageSettings:
    """The settings of a checkpoint's image processor.

    Args:
      folder: holds preprocessor_config.json, or processor_config.json with the part `image_processor`; without either
        CLIP's own settings are taken.
      image_size: side of the pictures that the vision tower reads.

    Raises:
      InputError: a file is not JSON, has a field of the wrong kind or one that is not supported, or the pictures that
        come out are not of the tower's size.
    """
    config = fields(folder)
    _refuse(config, folder)
    try:
        config = _kind(config).plain(config)
        settings = _settings(config, image_size)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise InputError(f"{folder}: the image processor's config has a wrong field ({error}); restore it") from error
    _check_size(settings, image_size, folder)
    return settings


def fitted(folder: Path, vision: VisionConfig) -> VisionConfig:
    """The vision side with its image plans fitted to the image processor's config; see `fitted_plan`."""
    several = None if vision.several is None else fitted_plan(folder, vision.several)
    return dataclasses.replace(vision, plan=fitted_plan(folder, vision.plan), several=several)


def fitted_plan(folder: Path, plan: ImagePlan) -> ImagePlan:
    """The model's image plan, fitted to its image processor's config.

    Raises:
      InputError: they contradict each other, or the config wants what the plan cannot do.
    """
    try:
        return plan.fitted(fields(folder))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise InputError(
            f"{folder}: the image processor's config does not fit the model ({error}); restore it"
        ) from error


def unknown_fields(folder: Path) -> list[str]:
    """Fields of the image processor's config that we do not know, and that no version of transformers that we know
    of reads."""
    config = fields(folder)
    return sorted(config.keys() - _READ - _NEUTRAL - _kind(config).fields)


def fields(folder: Path) -> dict[str, Any]:
    """The image processor's fields, with its class's defaults. To transformers null switches a step off, and is the
    default of anything else.

    Raises:
      InputError: the file is not JSON, or of a class that no model family here has.
    """
    config: dict[str, Any] = {}
    for name in FILES:
        if (folder / name).exists():
            content = read_json(folder / name)
            content = content.get("image_processor") if name == FILES[0] else content
            if isinstance(content, dict):
                config = content
                break
    switches = {name: False for name, value in config.items() if value is None and name.startswith("do_")}
    given = {name: value for name, value in config.items() if value is not None} | switches
    if _kind_name(given) not in IMAGE_PROCESSORS:
        known = ", ".join(IMAGE_PROCESSORS)
        raise InputError(f"{folder}: image_processor_type {_kind_name(given)!r} is not supported; there are {known}")
    return {**_kind(given).defaults, **given}


def _refuse(config: dict[str, Any], folder: Path) -> None:
    known = _READ | _NEUTRAL | _kind(config).fields
    switches = sorted(name for name in config.keys() - known if name.startswith("do_") and config[name])
    problems = [f"{name} {config[name]!r}" for name in switches]
    if config.get("pad_size") is not None and config.get("do_pad") and not _kind(config).pads_to_square:
        problems.append(f"pad_size {config['pad_size']!r}")
    if problems:
        raise InputError(f"{folder}: not supported in the image processor's config: {'; '.join(problems)}")


def _kind(config: dict[str, Any]) -> ImageProcessorKind:
    return IMAGE_PROCESSORS[_kind_name(config)]


def _kind_name(config: dict[str, Any]) -> str:
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor")
    for ending in _BACKENDS:
        kind = kind.removesuffix(ending)
    return kind


def _settings(config: dict[str, Any], image_size: int) -> ImageSettings:
    size, stretch = _size(config, image_size)
    centred = _switch(config, "do_center_crop", True)
    crop = _sides(config.get("crop_size", image_size), "crop_size")
    if crop[0] != crop[1]:
        raise ValueError(f"crop_size {crop[0]} x {crop[1]} is no square")
    normalises = _switch(config, "do_normalize", True)
    resample = config.get("resample", 3)
    if type(resample) is not int or resample not in _RESAMPLES:
        raise ValueError(f"resample {resample!r} is no filter of Pillow")
    return ImageSettings(
        size=size,
        crop=crop[0] if centred else size,
        mean=_channels(config.get("image_mean", _MEAN), "image_mean") if normalises else (0.0,) * 3,
        std=_channels(config.get("image_std", _STD), "image_std", zero=False) if normalises else (1.0,) * 3,
        rescale=_rescale(config),
        resample=resample,
        pad_to_square=_kind(config).pads_to_square and _switch(config, "do_pad", False),
        stretch=stretch,
        resize=_switch(config, "do_resize", True),
        centre=centred,
        drawn=_kind(config).drawn,
    )


def _size(config: dict[str, Any], image_size: int) -> tuple[int, bool]:
    """(length, whether both edges get it)."""
    size = config.get("size", image_size)
    if isinstance(size, dict) and "shortest_edge" in size and not config.get("use_square_size"):
        others = sorted(name for name in size.keys() - {"shortest_edge"} if size[name] is not None)
        if others:
            raise ValueError(f"size has {', '.join(others)} beside shortest_edge")
        return _natural(size["shortest_edge"]), False
    if isinstance(size, int) and not config.get("default_to_square") and not config.get("use_square_size"):
        return _natural(size), False
    if isinstance(size, dict) and "shortest_edge" in size:
        size = size["shortest_edge"]
    height, width = _sides(size, "size")
    if height != width:
        raise ValueError(f"size {height} x {width} is no square")
    return height, True


def _sides(value: Any, name: str) -> tuple[int, int]:
    """(height, width) of any spelling: a number, a pair, or a dictionary."""
    if isinstance(value, dict):
        others = sorted(key for key in value.keys() - {"height", "width"} if value[key] is not None)
        if others:
            raise ValueError(f"{name} has {', '.join(others)}")
        value = (value["height"], value["width"])
    if isinstance(value, list | tuple):
        height, width = value
        return _natural(height), _natural(width)
    return _natural(value), _natural(value)


def _natural(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 2**16:
        raise ValueError(f"{value!r} is no size of a picture")
    return value


def _switch(config: dict[str, Any], name: str, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, neither true nor false")
    return value


def _rescale(config: dict[str, Any]) -> float:
    if not _switch(config, "do_rescale", True):
        return 1.0
    return _number(config.get("rescale_factor", 1 / 255), "rescale_factor", zero=False)


def _channels(value: Any, name: str, zero: bool = True) -> tuple[float, float, float]:
    red, green, blue = (_number(one, name, zero) for one in value)
    return red, green, blue


def _number(value: Any, name: str, zero: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not (value or zero):
        raise ValueError(f"{name} holds {value!r}")
    return float(value)


def _check_size(settings: ImageSettings, image_size: int, folder: Path) -> None:
    """What comes out must be what the tower reads, whatever the picture's shape."""
    if settings.centre:
        if settings.crop != image_size:
            raise InputError(f"{folder}: the image processor's crop of {settings.crop} is not the tower's {image_size}")
    elif not settings.resize or not (settings.stretch or settings.pad_to_square):
        raise InputError(f"{folder}: without do_center_crop, pictures keep their shape; the tower reads squares only")
    elif settings.size != image_size:
        raise InputError(f"{folder}: the image processor's size of {settings.size} is not the tower's {image_size}")
