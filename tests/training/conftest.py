"""A tiny random model."""

import numpy as np
import pytest

from tests.training import tiny


@pytest.fixture(scope="session")
def params():
    return tiny.params(tiny.TEXT)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
