"""The tiny LLaVA of tests/steering for the tests of guards."""

import pytest

from tests.steering.conftest import tiny_model
from vlm_mu_jax.storage.model_folder import Model


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model()
