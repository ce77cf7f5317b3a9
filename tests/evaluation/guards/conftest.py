"""The tiny LLaVA of tests/steering for the tests of guards."""

import pytest

from tests.steering.conftest import TinyModel, tiny_model


@pytest.fixture(scope="session")
def model() -> TinyModel:
    return tiny_model()
