"""What holds for every test: strict broadcasting, no network, few threads, nothing written to the home folder."""

import gc
import importlib
import itertools
import os
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest

from tests import slow_files
from vlm_mu_jax.parallel.accelerators import leave_out_absent_tpu

ROOT = Path(__file__).resolve().parent.parent
SLOW_FILES = slow_files.read()
MOST_PROGRAMS = 2 * 2**30  # bytes of compiled programs; those of earlier code are never read again
FILES = itertools.count(1)  # test files that this worker has done

# Environment variables, so that the commands and the many-device scripts that tests start inherit them too.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # [B, D] + [D] must be written out: silent broadcasting hides bugs
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
leave_out_absent_tpu()  # the compiler is installed for the tests of bin/plan
# Compiling is most of the tests' time, and what they state holds at any level of the compiler's optimisation.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
COMPILE_FAST = " --xla_cpu_opt_preset=FAST_COMPILE --xla_cpu_use_fusion_emitters=false"  # half of the compiler's time
COMPILE_FAST += " --xla_cpu_parallel_codegen_split_count=1"  # programs are too small to be split
if COMPILE_FAST not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + COMPILE_FAST
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; torch would start as many threads as there are cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Imported libraries and collected tests stay: most of what the garbage collector would look through again and again.
gc.set_threshold(20_000, 10, 10)

# A drawn example may meet an import or a busy core; how long it takes says nothing about whether it is right.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config):
    """A program that one test, worker, command or earlier run has compiled is read by the others (`--cache-clear`)."""
    if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs = config.cache.mkdir("programs")
        if sum(file.stat().st_size for file in programs.iterdir()) > MOST_PROGRAMS:
            shutil.rmtree(programs)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)


def pytest_collection_modifyitems(items):
    """Files that take longest come first, so that no worker is left alone with one at the end."""
    place = {name: i for i, name in enumerate(SLOW_FILES)}
    files = {item: str(item.path.relative_to(ROOT / "tests")) for item in items}
    for item, name in files.items():
        if name in place:
            item.add_marker("slow")
    items.sort(key=lambda item: place.get(files[item], len(place)))


def pytest_collection_finish():
    if "jax" in sys.modules:
        importlib.import_module("tests.shared_programs").share()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Every few test files: a worker that keeps all of its compiled programs grows to five gigabytes."""
    yield
    if next(FILES) % 8 == 0 and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
