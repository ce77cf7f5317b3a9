"""Data sets of the Hugging Face hub by name: `hub:ORG/NAME[/CONFIG][:SPLIT]`, in the place of a file.

The set is fetched through the package `datasets` when it is first asked for, and kept as one Parquet file with its
images inside, which the readers then read as any other.
"""

import os
import re
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.outputs import complete_file

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([\w.+-]+))?(?::([\w.+-]+))?")


def is_hub(path: str | Path) -> bool:
    """Whether a path names a set of the hub."""
    return str(path).startswith(PREFIX)


def cache_folder() -> Path:
    """Where fetched sets are kept: VLM_MU_CACHE, else the user's cache folder. `off` there turns off other caches."""
    chosen = os.environ.get("VLM_MU_CACHE", "off")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vlm_mu_jax" if chosen in ("", "off") else chosen
    return Path(base).expanduser() / "hub"


def local(path: str | Path) -> Path:
    """The file that holds the set; any other path as it is.

    Raises InputError for a name that is none, a set or split that is not there, or without the package; JobError when
    the set cannot be fetched.
    """
    if not is_hub(path):
        return Path(path)
    found = _NAME.fullmatch(str(path))
    if found is None:
        raise InputError(f"{path}: is no data set; write hub:ORG/NAME[/CONFIG][:SPLIT]")
    name, config, split = found.groups()
    file = cache_folder() / name / (config or "") / f"{split or 'default'}.parquet"
    if not file.is_file():
        data = _fetched(str(path), name, config, split)
        with complete_file(file) as partial:
            data.to_parquet(str(partial))
    return file


def _fetched(path: str, name: str, config: str | None, split: str | None) -> Any:
    """One split of a set, with the bytes of its images."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"{path} needs the package datasets; pip install 'vlm_mu_jax[hub]'") from None
    try:
        data = datasets.load_dataset(name, config, split=split)
    except ValueError as error:  # an unknown split or configuration, or none of several was named
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # no network, no such set, no right to read it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JobError(
            f"{path}: cannot be fetched ({reason}); check the name, the network and `hf auth login`"
        ) from None
    if isinstance(data, dict):  # no split was named
        if len(data) > 1:
            raise InputError(f"{path}: has the splits {', '.join(data)}; write {path}:{next(iter(data))}")
        data = next(iter(data.values()))
    return _embedded(data, datasets)


def _embedded(data: Any, datasets: Any) -> Any:
    """With image bytes in the table in place of paths to files of the package's cache."""
    embed = datasets.table.embed_table_storage
    return data.with_format("arrow").map(embed, batched=True, batch_size=256).with_format(None)
