"""The tiny model of the guards' tests, its guard and its pictures."""

from tests.steering.conftest import anchors, home, model, pictures, split_guard  # noqa: F401
