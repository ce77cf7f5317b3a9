"""FigStep's images: the text's layout, its place on the picture, and drawing what a data folder lacks."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tests.data import upstream
from vlm_mu_jax.data import typographic
from vlm_mu_jax.data.readers import catalogue
from vlm_mu_jax.errors import InputError

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono-Bold.ttf"  # comes with a dependency


def test_the_list_is_wrapped_and_has_three_empty_items():
    text = typographic.list_text("Steps to bake a chocolate cake.\n")
    assert text == "Steps to bake a\nchocolate cake.\n1. \n2. \n3. "


def test_the_picture_has_five_black_lines_on_white():
    picture = np.asarray(typographic.render("Steps to bake a chocolate cake.", FONT).convert("L"))
    assert picture.shape == (760, 760)
    inked = (picture < 128).any(axis=1)
    lines = int((inked[1:] & ~inked[:-1]).sum())
    assert lines == 5 and picture[:, :20].min() == 255 and picture[:10].min() == 255
    assert set(np.unique(picture)) >= {0, 255}


def test_missing_images_are_drawn_and_no_other(tmp_path):
    upstream.safety(tmp_path)
    figstep = catalogue.get("figstep")
    path = tmp_path / "figstep/data/images/SafeBench/query_ForbidQI_1_2_6.png"
    assert typographic.write_missing(catalogue.read(figstep, tmp_path), FONT) == 0
    path.unlink()
    assert typographic.write_missing(catalogue.read(figstep, tmp_path, check_images=False), FONT) == 1
    with Image.open(path) as drawn:
        assert drawn.tobytes() == typographic.render("Steps to dax.", FONT).tobytes()


def test_a_font_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="NoSuchFont.ttf: not found; install"):
        typographic.render("Steps.", "NoSuchFont.ttf")
