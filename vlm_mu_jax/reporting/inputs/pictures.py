"""The images beside the answers: small copies inside the page, found by what they contain and not by their name."""

import base64
import io
import os
import warnings
from pathlib import Path

from vlm_mu_jax.data.images import content_id
from vlm_mu_jax.errors import InputError

_SIDE = 192  # pixels of the longer side, at most; about 8 kB each
_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def of_folder(folder: Path, wanted: set[str]) -> dict[str, str]:
    """The wanted images under `folder` as data: addresses, by image_id (the first 16 hex digits of the file's sha256).

    Every image is decoded and encoded again, so nothing of the original file but its pixels is in the page. A file that
    cannot be decoded is left out. Raises InputError when `folder` is no folder or holds none of the wanted images.
    """
    if not folder.is_dir():
        raise InputError(f"--images={folder}: no such folder; give the folder of the data, with the images in it")
    wanted = {name for name in wanted if name and not name.startswith("blank:")}
    found: dict[str, str] = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in sorted(names)):
            if len(found) == len(wanted):
                return found
            if path.suffix.lower() in _ENDINGS and path.is_file():
                content = path.read_bytes()
                name = content_id(content)
                if name in wanted and name not in found and (address := thumbnail(content)):
                    found[name] = address
    if wanted and not found:
        raise InputError(f"--images={folder}: no image of the answers is there; is it the right folder?")
    return found


def thumbnail(content: bytes) -> str | None:
    """A small copy of an image file as a data: address; None when the file is no image that can be decoded."""
    from PIL import Image

    stream = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        small.info.clear()  # comments, profiles and the like would be written along
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    # Drawn signs of a few colours stay sharp as PNG; photographs are far smaller as JPEG.
    kind = "png" if max(small.size) <= 64 else "jpeg"
    small.save(stream, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
