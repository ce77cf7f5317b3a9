"""The image processor's files: every field that changes pixels is honoured as transformers does, or refused by name."""

import json

import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.data.test_images import MEAN, STD, picture, settings
from vlm_mu_jax.data import images
from vlm_mu_jax.data.image_settings import ImageSettings, fitted_plan, read_settings, unknown_fields
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.image_plans.tiled import Tiled

SIDE = 24


def write(folder, name="preprocessor_config.json", **content):
    content = {"image_processor": content} if name.startswith("processor") else content
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_settings_are_read_from_either_file(name, tmp_path):
    fields = {
        "size": {"shortest_edge": 30},
        "crop_size": {"height": 28, "width": 28},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "rescale_factor": 0.5,
        "resample": 2,
    }
    write(tmp_path, name, **fields)
    assert read_settings(tmp_path, 28) == ImageSettings(
        30, 28, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), rescale=0.5, resample=2
    )


def test_the_processors_own_part_counts_before_the_older_file(tmp_path):
    write(tmp_path, "processor_config.json", do_normalize=False)
    write(tmp_path, do_normalize=True)
    assert read_settings(tmp_path, 336).mean == (0, 0, 0)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "LlavaProcessor", "patch_size": 14}')
    assert read_settings(tmp_path, 336) == settings(336, 336)


def test_sizes_of_older_files_and_of_no_file(tmp_path):
    assert read_settings(tmp_path, 336) == settings(336, 336)  # CLIP's numbers at the tower's own size
    write(tmp_path, size=30, crop_size=28, image_mean=MEAN)
    assert read_settings(tmp_path, 28) == settings(30, 28)
    write(tmp_path, size={"height": 30, "width": 30}, crop_size=30, image_mean=MEAN)
    assert read_settings(tmp_path, 30) == settings(30, 30, stretch=True)


def test_only_llavas_own_processor_pads_to_a_square(tmp_path):
    """LLaVA-NeXT's do_pad fills batches up with empty tiles, CLIP's to the largest image; both crop."""
    for name, pads in (("Llava", True), ("CLIP", False), ("LlavaNext", False), ("LlavaImageProcessorFast", True)):
        kind = name if name.endswith("Fast") else f"{name}ImageProcessor"
        write(tmp_path, image_processor_type=kind, do_pad=True, image_mean=MEAN)
        assert read_settings(tmp_path, 336).pad_to_square == pads
    pinpoints = [[336, 672], [672, 336]]
    write(tmp_path, image_processor_type="LlavaNextImageProcessor", do_pad=True, image_grid_pinpoints=pinpoints)
    assert read_settings(tmp_path, 336) == settings(336, 336)
    plan = Tiled(576, 24, 336, ((336, 672), (672, 336)))
    assert fitted_plan(tmp_path, plan) == plan
    with pytest.raises(InputError, match="image_grid_pinpoints"):
        fitted_plan(tmp_path, Tiled(576, 24, 336, ((336, 672),)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_resize": False},
        {"do_center_crop": False, "size": {"height": SIDE, "width": SIDE}},
        {"size": {"height": 30, "width": 30}},
        {"size": [30, 30]},
        {"size": 30},
        {"size": 30, "default_to_square": True},
        {"crop_size": SIDE},
        {"crop_size": [SIDE, SIDE]},
        {"rescale_factor": 0.01, "resample": 2},
        {"resample": 0, "do_convert_rgb": False},
        {"do_resize": None, "do_normalize": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, LlavaImageProcessorPil])
def test_pixels_are_those_of_transformers_with_the_same_file(kind, fields, tmp_path):
    whole = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN}
    whole |= {"image_std": STD, "image_processor_type": kind.__name__} | fields
    write(tmp_path, **whole)
    ours, theirs = read_settings(tmp_path, SIDE), kind.from_pretrained(tmp_path)
    for width, height in ((40, 31), (20, 33), (24, 24)):
        want = theirs(picture(width, height), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_array_equal(images.to_pixels(picture(width, height), ours), want)


def test_padding_without_a_crop_gives_squares_too(tmp_path):
    fields = {"size": {"shortest_edge": SIDE}, "do_pad": True, "do_center_crop": False, "image_mean": MEAN}
    write(tmp_path, image_processor_type="LlavaImageProcessor", image_std=STD, **fields)
    ours = read_settings(tmp_path, SIDE)
    want = LlavaImageProcessorPil.from_pretrained(tmp_path)(picture(40, 31), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(images.to_pixels(picture(40, 31), ours), want.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"crop_size": 42}, "crop of 42 is not the tower's 24"),
        ({"do_center_crop": False}, "keep their shape"),
        ({"do_center_crop": False, "do_resize": False}, "keep their shape"),
        ({"do_center_crop": False, "size": {"height": 30, "width": 30}}, "size of 30 is not the tower's 24"),
        ({"size": {"height": 30, "width": 20}}, "size 30 x 20 is no square"),
        ({"size": {"longest_edge": 30}}, "longest_edge"),
        ({"size": {"shortest_edge": 30, "longest_edge": 40}}, "longest_edge beside shortest_edge"),
        ({"size": {"max_pixels": 30}}, "max_pixels"),
        ({"size": 10**9}, "no size of a picture"),
        ({"crop_size": {"height": 24, "width": 20}}, "crop_size 24 x 20 is no square"),
        ({"do_thumbnail": True}, "do_thumbnail True"),
        ({"do_image_splitting": True, "do_reduce_labels": True}, "do_image_splitting True; do_reduce_labels True"),
        ({"image_processor_type": "SamImageProcessor"}, "image_processor_type 'SamImageProcessor'"),
        ({"do_pad": True, "pad_size": {"height": 9, "width": 9}}, "pad_size"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"resample": 9}, "resample 9"),
        ({"image_std": [0.1, 0, 0.2]}, "image_std holds 0"),
        ({"image_mean": [0.1, 0.2]}, "not enough values"),
        ({"image_mean": [0.1, "a", 0.2]}, "image_mean holds 'a'"),
        ({"rescale_factor": 1e400}, "the number Infinity"),
        ({"image_processor_type": "LlavaNextImageProcessor", "do_resize": False}, "LLaVA-NeXT, which always resizes"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused_by_name(fields, what, tmp_path):
    write(tmp_path, **{"crop_size": SIDE, "size": {"shortest_edge": SIDE}} | fields)
    with pytest.raises(InputError, match=what) as caught:
        read_settings(tmp_path, SIDE)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_listed(tmp_path):
    write(tmp_path, crop_pct=0.9, do_convert_rgb=True, do_flip=False, processor_class="LlavaProcessor", size=SIDE)
    assert unknown_fields(tmp_path) == ["crop_pct", "do_flip"]
    assert read_settings(tmp_path, SIDE).size == SIDE


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"size": "large"}', '{"image_mean": 3}', '{"resample": "soft"}', "[" * 9999]
)
def test_a_broken_settings_file_is_an_input_error(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match="restore"):
        read_settings(tmp_path, 336)


def test_siglip_stretches_and_crops_nothing(tmp_path):
    """With the defaults of its own class, whichever of the fields the file leaves out."""
    shown = picture(31, 57)
    for given in ({}, {"image_mean": [0.1, 0.2, 0.3], "resample": 2}):
        theirs = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, **given)
        write(tmp_path, image_processor_type="SiglipImageProcessor", size={"height": SIDE, "width": SIDE}, **given)
        want = theirs(shown, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(images.to_pixels(shown, read_settings(tmp_path, SIDE)), want, atol=1e-6)
    write(tmp_path, image_processor_type="SiglipImageProcessor")
    with pytest.raises(InputError, match="size of 224 is not the tower's 24"):
        read_settings(tmp_path, SIDE)
