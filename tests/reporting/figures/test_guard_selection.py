"""The heat map of a guard's selection."""

import io
from dataclasses import asdict

from PIL import Image

from vlm_mu_jax.reporting.figures.guard_selection import heat_map
from vlm_mu_jax.steering.selection import OFF, Bounds, Candidate, GuardChoice, GuardScores


def test_heat_map_is_a_picture_of_every_row_and_column():
    off = {**asdict(OFF), **asdict(GuardScores(0, 0)), "feasible": True}
    tried = [Candidate("add", s, layers, "midpoint") for s in (1.0, 2.0) for layers in ((1,), (1, 2))][:3]
    rows = [off] + [{**asdict(c), **asdict(GuardScores(0.5, 0.1)), "feasible": c.strength < 2} for c in tried]
    made = heat_map(GuardChoice(tried[0], rows, Bounds()))
    picture = Image.open(io.BytesIO(made))
    assert picture.format == "PNG" and picture.width > 400
    assert made != heat_map(GuardChoice(tried[1], rows, Bounds())), "the frame must show which one was chosen"
    assert heat_map(GuardChoice(OFF, [off], Bounds()))  # nothing to try but "off"
