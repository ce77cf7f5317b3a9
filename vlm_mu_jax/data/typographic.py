"""FigStep's typographic images: an instruction as a numbered list with empty items, drawn as text.

Source: ThuCCSLab/FigStep@96e015e:src/generate_prompts.py (Gong et al. 2023, arXiv 2311.05608): 760 x 760 white, black
FreeMonoBold of 80 points at (20, 10), 11 pixels between lines, lines of at most 15 characters, "1. 2. 3." below.
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
      font: a TrueType file, or a name that Pillow finds among the system's fonts. Only upstream's own font gives
        upstream's pixels.

    Raises InputError when the font is not there.
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
    """Draws the images of FigStep records (read with check_images=False) that are not on the disk; how many."""
    written = 0
    for item in records:
        path = records.image_path(item)
        if isinstance(item, Item) and path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            render(item.details["instruction"], font).save(path)
            written += 1
    return written
