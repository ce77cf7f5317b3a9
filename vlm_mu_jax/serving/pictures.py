"""Images of requests: data URLs, and http(s) URLs of hosts that are allowed. Nothing of this machine can be read."""

import base64
import binascii
import dataclasses
import hashlib
import io
import re
import urllib.parse
import urllib.request
import warnings
from typing import Any

from PIL import Image, ImageOps

from vlm_mu_jax.data.images import to_rgb
from vlm_mu_jax.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
LONGEST_SIDE_RATIO = 50  # a strip that is scaled to the model's height would fill the memory
TIMEOUT_SECONDS = 10
_DATA = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class PictureLimits:
    """What images a request may hold.

    number: images of one request. pixels: of one image. bytes: of an image that is fetched. hosts: from which images
    may be fetched; none by default.
    """

    number: int = 8
    pixels: int = 20_000_000
    bytes: int = 20_000_000
    hosts: tuple[str, ...] = ()


def read_picture(url: str, limits: PictureLimits) -> tuple[Image.Image, str]:
    """The picture as RGB, turned as its EXIF says, and a name of its content.

    Raises InputError for any URL but a data URL or one of an allowed host, and for what is no image or too large.
    """
    raw = _content(url, limits)
    return _opened(raw, limits), hashlib.sha256(raw).hexdigest()[:32]


def _content(url: str, limits: PictureLimits) -> bytes:
    head = _DATA.match(url[:64])
    if head:
        try:
            return base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise InputError("the data URL holds no valid base64") from None
    scheme = url[:16].partition(":")[0].lower()
    if scheme in ("http", "https"):
        return _fetched(url, limits)
    raise InputError("image_url must be a data URL, data:image/png;base64,...")


def _fetched(url: str, limits: PictureLimits) -> bytes:
    try:
        host = urllib.parse.urlsplit(url).hostname
    except ValueError:
        host = None
    if host is None or host not in limits.hosts:
        raise InputError("this server fetches no image from that host; send the image as a data URL")
    try:
        with _opener().open(url, timeout=TIMEOUT_SECONDS) as answer:
            raw = answer.read(limits.bytes + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"the image could not be fetched ({type(error).__name__})") from None
    if len(raw) > limits.bytes:
        raise InputError(f"the image has more than {limits.bytes} bytes")
    return raw


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An allowed host must not send us to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https alone, without a proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def _opened(raw: bytes, limits: PictureLimits) -> Image.Image:
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            if width * height > limits.pixels:
                raise InputError(f"the image has {width} x {height} pixels; {limits.pixels} are allowed")
            if max(width, height) > LONGEST_SIDE_RATIO * min(width, height):
                raise InputError(f"the image, {width} x {height}, is too long a strip")
            return to_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Exception:  # damaged files make Pillow raise anything
        raise InputError(f"not a readable image; send one of {', '.join(FORMATS)}") from None
