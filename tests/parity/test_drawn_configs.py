"""Ids, pixels and logits of every family equal PyTorch transformers over drawn configurations.

A few per family here. VLM_MU_JAX_DRAWN=15 draws as many of each, other ones in every run.
"""

import os
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.families import FAMILIES
from tests.parity import drawn
from tests.parity.image_family import Both, pictures

MANY = int(os.environ.get("VLM_MU_JAX_DRAWN", 0))
SIZES = ((20, 44), (50, 9), (9, 9))  # width, height


@pytest.mark.parametrize("name", FAMILIES)
def test_drawn_configurations(name, tmp_path):
    tall, wide, small = pictures(*SIZES)
    family, rows = FAMILIES[name], [(tall,), (wide, tall), (small,), ()]
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]

    how = {"derandomize": not MANY, "database": None, "phases": [Phase.generate], "suppress_health_check": quiet}

    @settings(max_examples=MANY or 2, **how)
    @given(st.data())
    def check(data):
        fields = data.draw(drawn.of_family(name))
        note(f"{fields}")
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        family.write(folder / "hf", **fields)
        both = Both.of(folder, rows, family.processor)
        both.assert_same_ids_and_pixels()
        both.assert_same_logits()
        if MANY:
            jax.clear_caches()

    check()
