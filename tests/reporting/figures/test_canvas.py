"""Figures as text and as files: one colour per role, the light page's look in the files, no label lost."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from tests.files.small_disk import small_disk
from vlm_mu_jax.reporting.figures import canvas


@pytest.fixture(scope="module")
def drawing():
    with canvas.style():
        figure, (axis,) = canvas.panels(1, 1.0, width=2.0)
        axis.barh(0, 1, color=canvas.color("asr"))
        axis.set_title("inherit <b> & $x$\x1b\x00")  # the control characters are no XML
        return canvas.to_svg(figure, "test", "a <title>")


def test_roles_have_colours_of_their_own():
    assert len({canvas.color(role) for role in canvas.ROLES}) == len(canvas.ROLES)
    with pytest.raises(KeyError):
        canvas.color("purple")


def test_on_the_page_colours_are_the_pages(drawing):
    assert "var(--asr)" in drawing and "var(--ink)" in drawing
    assert set(re.findall(r"#[0-9a-f]{6}", drawing)) == set()


def test_a_full_disk_leaves_no_half_figure_and_names_it(drawing, tmp_path):
    with small_disk(1000), pytest.raises(OSError, match=r"File too large: '.*test\.svg'"):
        canvas.save(drawing, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_look_as_the_light_page_does(drawing, tmp_path):
    svg, png = canvas.save(drawing, tmp_path)
    assert (svg.name, png.name) == ("test.svg", "test.png")
    root = ET.fromstring(svg.read_text())
    assert "inherit <b> & $x$" in "".join(root.itertext()) and "var(--" not in svg.read_text()
    pixels = np.asarray(Image.open(png).convert("RGBA")).reshape(-1, 4)
    wanted = [int(canvas.color("asr")[i : i + 2], 16) for i in (1, 3, 5)] + [255]
    assert (pixels == wanted).all(axis=1).mean() > 0.2, "the bar is drawn in its colour"
    assert (pixels[0] == [255, 255, 255, 255]).all(), "a file has a ground of its own"
