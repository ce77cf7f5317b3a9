"""Pixels equal transformers' own image processors; files that are no images are refused in one line."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers.image_utils import load_image
from transformers.models.clip import image_processing_pil_clip
from transformers.models.llava import image_processing_pil_llava

from vlm_mu_jax.data import images
from vlm_mu_jax.errors import InputError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def settings(size=24, crop=24, **fields):
    return images.ImageSettings(size, crop, MEAN, STD, **fields)


def picture(width, height, mode="RGB"):
    pixels = np.random.default_rng((width, height)).integers(0, 256, (height, width, len(mode)), np.uint8)
    return Image.fromarray(pixels, mode=mode) if len(mode) > 1 else Image.fromarray(pixels[..., 0], mode=mode)


def clip_pixels(image, size, crop):
    processor = image_processing_pil_clip.CLIPImageProcessorPil(
        size=size, crop_size={"height": crop, "width": crop}, image_mean=MEAN, image_std=STD
    )
    return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


@hypothesis.given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([(24, 24), (24, 17), (30, 24), (12, 20)]))
@hypothesis.example(40, 60, (24, 24)).via("portrait")
@hypothesis.example(60, 40, (24, 24)).via("landscape")
@hypothesis.example(49, 98, (24, 24)).via("24 * (98 / 49) and (24 / 49) * 98 round to different sides of 48")
@hypothesis.settings(max_examples=60)
def test_pixels_equal_transformers(width, height, sizes):
    """Same steps in the same precision: bit for bit, also where the crop is larger than the image."""
    size, crop = sizes
    want = clip_pixels(picture(width, height), {"shortest_edge": size}, crop)
    got = images.to_pixels(picture(width, height), settings(size, crop))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


def test_every_aspect_ratio_is_resized_to_the_same_size_as_in_transformers():
    """A long edge that is a whole number must not fall one short by rounding."""
    from transformers.image_transforms import get_resize_output_image_size

    for short in range(1, 120):
        for long in range(short, 3 * short, 7):
            for height, width in ((short, long), (long, short)):
                theirs = get_resize_output_image_size(np.zeros((3, height, width)), 336, default_to_square=False)
                assert images.resized(width, height, settings(336, 336)) == theirs[::-1]


def test_a_size_given_as_height_and_width_stretches_as_transformers_does():
    want = clip_pixels(picture(40, 30), {"height": 24, "width": 24}, 24)
    np.testing.assert_array_equal(images.to_pixels(picture(40, 30), settings(stretch=True)), want)


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (31, 31), (26, 27)])
def test_padding_to_a_square_equals_the_llava_processor(shape):
    processor = image_processing_pil_llava.LlavaImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_mean=MEAN, image_std=STD, do_pad=True
    )
    want = processor(picture(*shape), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(images.to_pixels(picture(*shape), settings(pad_to_square=True)), want)


def expand2square(image):
    """haotian-liu/LLaVA mm_utils.py: process_images with image_aspect_ratio "pad", in its own order of steps."""
    side, colour = max(image.size), tuple(int(255 * m) for m in MEAN)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, (0, (side - image.height) // 2) if image.width == side else ((side - image.width) // 2, 0))
    return square


@hypothesis.given(st.integers(1, 90), st.integers(1, 90))
@hypothesis.settings(max_examples=40)
def test_padding_to_a_square_equals_the_original_llava(width, height):
    want = clip_pixels(expand2square(picture(width, height)), {"shortest_edge": 24}, 24)
    np.testing.assert_array_equal(images.to_pixels(picture(width, height), settings(pad_to_square=True)), want)


def turned(path, kind, orientation, size=(30, 20)):
    """A file whose EXIF says how a camera was held."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture(*size).save(path, format=kind, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_turned_as_transformers_turns_them(kind, tmp_path):
    for orientation in range(10):  # 0 and 9 mean nothing
        path = turned(tmp_path / "photo", kind, orientation)
        want = load_image(str(path))
        assert want.size == ((20, 30) if orientation in (5, 6, 7, 8) else (30, 20))
        np.testing.assert_array_equal(np.asarray(images.load(path)), np.asarray(want))
        assert images.size_of(path) == (want.height, want.width)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_an_image_or_an_error_but_never_a_crash(tmp_path):
    data, rng = turned(tmp_path / "whole", "JPEG", 6).read_bytes(), np.random.default_rng(0)
    start = data.index(b"Exif")
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(start, start + 40, 3):
            damaged[at] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(bytes(damaged))
        try:
            height, width = images.size_of(tmp_path / "damaged")
            assert images.load(tmp_path / "damaged").size == (width, height)
        except InputError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "CMYK", "P"])
def test_files_of_other_modes_are_read_as_transformers_converts_them(mode, tmp_path):
    image = picture(30, 20).quantize(16) if mode == "P" else picture(30, 20, mode)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image.save(path)
    want = clip_pixels(Image.open(path), {"shortest_edge": 24}, 24)
    for read in (images.load(path), Image.open(path)):
        np.testing.assert_array_equal(images.to_pixels(read, settings()), want)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"])
def test_a_file_that_is_no_image_is_one_error(content, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="bad.png: not a readable image") as error:
        images.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's notes on the damage
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_damaged_file_is_an_image_or_an_error_but_never_a_crash(kind, tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "damaged"
    picture(20, 20).save(whole, format=kind)
    data, rng = whole.read_bytes(), np.random.default_rng(0)
    for trial in range(100):
        damaged = bytearray(data[: rng.integers(len(data))] if trial % 2 else data)
        for at in rng.integers(0, max(len(damaged), 1), 4 if damaged else 0):
            damaged[at] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            assert images.load(path).mode == "RGB"
        except InputError as error:
            assert str(path) in str(error)


def test_a_missing_image_and_a_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="no such image"):
        images.load(tmp_path / "absent.png")
    with pytest.raises(InputError, match="not a readable image"):
        images.load(tmp_path)


def test_blank_images_hold_what_their_name_says():
    one = settings()
    white, black, mean = (images.to_pixels(images.blank(kind, 24, one), one) for kind in ("white", "black", "mean"))
    np.testing.assert_allclose(white, np.broadcast_to((1 - np.array(MEAN)) / STD, white.shape), rtol=1e-5)
    np.testing.assert_allclose(black, np.broadcast_to(-np.array(MEAN) / STD, black.shape), rtol=1e-5)
    assert np.abs(mean).max() <= 0.5 / 255 / min(STD) + 1e-6  # the nearest 8-bit colour
    noise = [np.asarray(images.blank("noise", 24, one, seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert (noise[0] != noise[2]).any()
    with pytest.raises(InputError, match="white, black, mean, noise"):
        images.blank("grey", 24, one)
