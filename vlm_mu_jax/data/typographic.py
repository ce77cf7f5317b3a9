"""FigStep's typographic images: an instruction, drawn as text above a numbered list with empty items.

The image is white, 760 x 760 pixels. The text is black FreeMonoBold of 80 points at (20, 10), with 11 pixels between
lines and at most 15 characters in a line. "1. ", "2. " and "3. " stand below. Source:
ThuCCSLab/FigStep@96e015e:src/generate_prompts.py (Gong et al. 2023, arXiv 2311.05608).
"""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vlm_mu_jax.data.records import Item, Records
from vlm_mu_jax.errors import InputError

FONT = "FreeMonoBold.ttf"
_SIDE, _POINTS, _CORNER, _SPACING, _WIDTH, _STEPS = 760, 80, (20, 10), 11, 15, 3


def list_text(instruction: str) -> str:
    """The text of the image: the wrapped instruction, then "1. ", "2. ", "3. " on lines of their own."""
    wrapped = textwrap.fill(instruction.removesuffix("\n"), width=_WIDTH)
    return "".join([wrapped, *(f"\n{step}. " for step in range(1, _STEPS + 1))])


def render(instruction: str, font: str | Path = FONT) -> Image.Image:
    """The image of an instruction, RGB 760 x 760.

    Args:
      instruction: the text above the list.
      font: a TrueType file, or a name that Pillow finds among the system's fonts. Only upstream's own font gives
        upstream's pixels.

    Raises:
      InputError: the font is not there.
    """
    try:
        loaded = ImageFont.truetype(str(font), _POINTS)
    except OSError:
        raise InputError(f"font {font}: not found; install GNU FreeFont (fonts-freefont-ttf) or name a file") from None
    image = Image.new("RGB", (_SIDE, _SIDE), "#FFFFFF")
    draw = ImageDraw.Draw(image)
    draw.text(_CORNER, list_text(instruction), fill="#000000", font=loaded, spacing=_SPACING)
    return image


def write_missing(records: Records, font: str | Path = FONT) -> int:
    """Draws the images of FigStep's records that are not on the disk, and returns how many these were.

    Args:
      records: FigStep's records, read with `check_images=False`.
      font: as in `render`.
    """
    written = 0
    for item in records:
        path = records.image_path(item)
        if isinstance(item, Item) and path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            render(item.details["instruction"], font).save(path)
            written += 1
    return written
