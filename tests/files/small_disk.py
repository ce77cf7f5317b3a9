"""A disk that is full: files of this process may not grow beyond so many bytes."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
