"""Compiled programs on disk: what one process has compiled, the next one reads."""

import contextlib
import hashlib
import os
import platform
from pathlib import Path

from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.paths import resolved

_made: list[Path] = []  # folders that this process has made, innermost first


def enable(workdir: str | Path | None = None) -> Path | None:
    """Keeps compiled programs on disk, so that the next process compiles nothing; called before any other JAX work.

    The folder is $VLM_MU_CACHE, else `.xla_cache` beside the workdir: all hosts of a job see it, a restarted container
    finds it again, and runs that lie together share it. Without a workdir, or where `.xla_cache` is not ours (compiled
    programs are code), it is ~/.cache/vlm_mu_jax/xla. In it is one folder per kind of CPU: a program compiled
    for another kind could crash this one. `VLM_MU_CACHE=off` turns the cache off, and a folder in
    $JAX_COMPILATION_CACHE_DIR is left to JAX. Returns the folder, or None when off or not writable (only slower then).
    """
    import jax

    chosen = os.environ.get("VLM_MU_CACHE")
    if chosen == "off" or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    passing = workdir is None or buckets.remote(resolved(workdir)) is not None  # a bucket's copy does not stay
    beside = None if passing else resolved(workdir).parent / ".xla_cache"
    for base in (chosen,) if chosen else (beside, "~/.cache/vlm_mu_jax/xla"):
        folder = None if base is None else _own_folder(base)
        if folder is not None:
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            return folder
    return None


def drop_empty() -> None:
    """Removes what `enable` has made where nothing was compiled: a command that fails first leaves no cache behind."""
    with contextlib.suppress(OSError):
        for folder in _made:
            folder.rmdir()


def _own_folder(base: str | Path) -> Path | None:
    """The folder of this kind of CPU in `base`, made if need be; None when it is not ours to write."""
    try:
        folder = Path(base).expanduser() / _cpu()
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _made.extend(missing)
        ours = not hasattr(os, "getuid") or folder.stat().st_uid == folder.parent.stat().st_uid == os.getuid()
    except (OSError, RuntimeError):  # a read-only home, or none at all
        return None
    return folder if ours and os.access(folder, os.W_OK) else None


def _cpu() -> str:
    """A short name for the instruction set that compiled programs may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
