"""Files written past the page cache: the same bytes, whatever their number."""

import errno
import mmap
import os

import ml_dtypes
import numpy as np
import pytest

from vlm_mu_jax.files import direct_file
from vlm_mu_jax.files.direct_file import DirectFile

PAGE = mmap.PAGESIZE
STAGE = direct_file._STAGE_BYTES
SIZES = [[0], [1], [PAGE], [PAGE - 1, 2], [STAGE], [STAGE + 1], [STAGE - 1, 1, 1], [3, 2 * STAGE + PAGE, 5]]


real_open = os.open


def refusing(path, flags, mode):
    """A file system without direct writing: it makes the file and then refuses."""
    descriptor = real_open(path, flags & ~os.O_DIRECT, mode)
    if flags & os.O_DIRECT:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Invalid argument")
    return descriptor


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("direct", [True, False])
def test_the_bytes_are_those_written(sizes, direct, tmp_path, monkeypatch):
    if not direct:
        monkeypatch.setattr(direct_file.os, "open", refusing)
    rng = np.random.default_rng(len(sizes))
    parts = [rng.integers(0, 256, size, np.uint8) for size in sizes]
    with DirectFile(tmp_path / "x") as file:
        for part in parts:
            file.write(part)
        assert file.size == sum(sizes)
    assert (tmp_path / "x").read_bytes() == b"".join(part.tobytes() for part in parts)


def test_a_second_file_begins_empty(tmp_path):
    for name, value in (("x", 1), ("y", 2)):
        with DirectFile(tmp_path / name) as file:
            file.write(np.full((3, 5), value, ml_dtypes.bfloat16))
        assert (tmp_path / name).read_bytes() == np.full(15, value, ml_dtypes.bfloat16).tobytes()
    with pytest.raises(RuntimeError), DirectFile(tmp_path / "z") as file:
        file.write(np.ones(9, np.uint8))
        raise RuntimeError
    with DirectFile(tmp_path / "w") as file:
        file.write(np.zeros(2, np.uint8))
    assert (tmp_path / "w").read_bytes() == bytes(2)


@pytest.mark.parametrize("size", [3, STAGE])
def test_a_file_that_is_there_is_not_overwritten(size, tmp_path):
    (tmp_path / "x").write_text("precious")
    with pytest.raises(FileExistsError), DirectFile(tmp_path / "x") as file:
        file.write(np.ones(size, np.uint8))
    assert (tmp_path / "x").read_text() == "precious"
