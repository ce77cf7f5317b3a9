"""The K-curve: rises with the words, beside as many neutral words."""

from vlm_mu_jax.reporting.figures import shots
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun


def run(**metrics):
    rates = {name.replace("__", "/"): Rate(value, 20, 0.0, 1.0) for name, value in metrics.items()}
    return ModelRun("sft", "sft", 0, rates, {}, None, "sft")


def points(drawing, axis=0):
    """Of one panel, the line of each role that has marks: [(K, rate)], K rounded as lines stand a little apart."""
    lines = [line for line in drawing.figure.axes[axis].lines if line.get_marker() not in ("", "None", None)]
    return [[(round(x), y) for x, y in zip(*line.get_data(), strict=True)] for line in lines]


def test_shots_stand_in_the_order_of_their_number():
    shuffled = {"asr_after_by_shots__10": 0.9, "asr_after_by_shots__2": 0.5, "asr_after_by_shots__1": 0.4}
    drawing = shots.k_curve([run(**shuffled)])
    assert points(drawing) == [[(1, 0.4), (2, 0.5), (10, 0.9)]]
    assert "neutral" not in drawing


def test_the_control_is_a_curve_or_else_its_last_point():
    words = {"asr_after_by_shots__1": 0.4, "asr_after_by_shots__2": 0.5}
    one = {"asr_null": 0.1, "asr_null_by_word__a": 0.1, "asr_null_by_word__b": 0.0}
    curve = {"asr_null_by_shots__1": 0.0, "asr_null_by_shots__2": 0.1}
    assert points(shots.k_curve([run(**words, **one)]))[1] == [(2, 0.1)]
    assert points(shots.k_curve([run(**words, **one, **curve)]))[1] == [(1, 0.0), (2, 0.1)]


def test_one_shot_is_no_curve():
    assert shots.k_curve([run(asr_after_by_shots__1=0.4), run(asr_after=0.4)]) is None
