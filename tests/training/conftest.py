"""A tiny random model and streams; programs compiled once are kept for the other tests of this folder."""

import jax
import numpy as np
import pytest

from tests.training import tiny


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="session")
def params():
    return tiny.params(tiny.TEXT)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
