"""Images that stand inside a data file (Parquet bytes, base64 columns), unpacked beside it as ordinary files."""

import base64
import binascii
import dataclasses
import os
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.outputs import complete_file

_KINDS = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


@dataclasses.dataclass(frozen=True)
class Embedded:
    """An image's bytes and the name its file gets, without suffix."""

    name: str
    content: bytes


def from_base64(name: str, text: str) -> Embedded:
    """Raises InputError when the text is not base64."""
    try:
        return Embedded(name, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise InputError("image is not base64") from None


def from_parquet(name: str, value: Any) -> Embedded:
    """Of an image column as `datasets` writes it: {"bytes", "path"}. Raises InputError for another value."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise InputError("image holds no bytes; download the set with its images")
    return Embedded(name, content)


def unpack(image: Embedded, file: Path, root: Path) -> str:
    """Writes the image to the folder `FILE.images` beside the data file, unless it is there; its path under `root`.

    Raises InputError for bytes of no known kind, or a folder that cannot be written.
    """
    suffix = next((suffix for start, suffix in _KINDS if image.content.startswith(start)), None)
    if suffix is None:
        raise InputError("image bytes are of no known kind (PNG, JPEG, GIF, WebP, BMP)")
    target = file.with_name(f"{file.name}.images") / f"{image.name.replace(os.sep, '_')}{suffix}"
    if not target.exists():
        try:
            with complete_file(target) as partial:
                partial.write_bytes(image.content)
        except OSError as error:
            raise InputError(
                f"{target}: image cannot be unpacked ({error.strerror}); make the folder writable"
            ) from None
    return os.path.relpath(target, root)
