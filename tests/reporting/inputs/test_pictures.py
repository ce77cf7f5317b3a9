"""Images beside answers: found by content, encoded again, and none of a file that is no image."""

import base64
import hashlib
import io

import pytest
from PIL import Image

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.inputs import pictures


def image_file(path, size, color="red", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def decoded(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))


def test_found_by_content_made_small_and_nothing_but_pixels(tmp_path):
    secret = "HIDDEN-IN-THE-FILE"
    big = image_file(tmp_path / "a" / "photo.jpg", (800, 400), comment=secret.encode())
    small = image_file(tmp_path / "b" / "c" / "sign.PNG", (32, 32), "blue")
    image_file(tmp_path / "other.png", (5, 5))
    found = pictures.of_folder(tmp_path, {big, small, "blank:white", "0" * 16})
    assert set(found) == {big, small}
    assert max(decoded(found[big]).size) == 192 and decoded(found[small]).size == (32, 32)
    assert decoded(found[small]).getpixel((3, 3)) == (0, 0, 255)
    assert secret.encode() not in base64.b64decode(found[big].split(",", 1)[1])


def test_a_file_that_is_no_image_is_left_out(tmp_path):
    (tmp_path / "evil.png").write_bytes(b"<svg onload='x'>")
    evil = hashlib.sha256(b"<svg onload='x'>").hexdigest()[:16]
    good = image_file(tmp_path / "good.png", (4, 4))
    assert set(pictures.of_folder(tmp_path, {evil, good})) == {good}


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="--images=.*no such folder"):
        pictures.of_folder(tmp_path / "lost", {"0" * 16})
    with pytest.raises(InputError, match="no image of the answers"):
        pictures.of_folder(tmp_path, {"0" * 16})
    assert pictures.of_folder(tmp_path, {"blank:white"}) == {}
