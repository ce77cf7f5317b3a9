"""Object stores: the few things that are asked of one, through fsspec."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "hf": "huggingface_hub"}  # what fsspec needs for each


class Store:
    """One kind of store. Keys begin with the bucket."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        try:
            import fsspec

            self._quiet()
            options = {"finalize_on_close": True} if scheme == "gs" else {}
            self.files = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            needed = SCHEMES[scheme]
            raise InputError(f"{scheme}:// needs {needed}; install it: pip install 'vlm_mu_jax[cloud]'") from error

    def _quiet(self) -> None:
        """gcsfs asks for the kind of every bucket, and for credentials that an emulator does not want. It logs what it
        raises, with the traceback."""
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        os.environ.setdefault("TENSORSTORE_GCS_BACKEND", "gcs")
        if self.scheme == "gs" and (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
            from fsspec.config import conf

            os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
            conf.setdefault("gs", {}).setdefault("token", "anon")  # Orbax opens the store by itself
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

    def find(self, key: str, siblings: bool = False) -> dict[str, int]:
        """Size of every object that is `key` or lies below it; siblings: also of those called KEY.*.

        Raises:
          InputError: the store cannot be read.
        """
        parent, _, name = key.rpartition("/")
        stem = name.split(".")[0] if siblings else name
        try:
            self.files.invalidate_cache()
            found = self.files.find(key, detail=True) if not siblings or not parent else {}
            if siblings and parent:
                found = self.files.find(parent, prefix=stem, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # each store has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"{self.scheme}://{key}: cannot be read ({reason})") from error

        def wanted(one: str) -> bool:
            first = one.removeprefix(f"{parent}/").split("/")[0]
            return first == name or siblings and first.startswith(f"{stem}.")

        return {one: int(about["size"] or 0) for one, about in found.items() if not parent or wanted(one)}

    def fetch(self, wanted: Sequence[tuple[str, Path]]) -> None:
        """Copies objects into files."""
        if wanted:
            keys, paths = zip(*wanted, strict=True)
            try:
                self.files.get(list(keys), [str(path) for path in paths])
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise InputError(f"{self.scheme}://{keys[0]}: cannot be read ({reason})") from error

    def put(self, path: Path, key: str) -> None:
        """Sends a file as one object, which appears whole."""
        if path.stat().st_size < 2**25:
            self.files.pipe_file(key, path.read_bytes())  # a file that grows meanwhile is sent as it was at one moment
        else:
            self.files.put_file(str(path), key)

    def remove(self, key: str) -> None:
        """Removes an object, if it is there."""
        try:
            self.files.rm_file(key)
        except FileNotFoundError:
            pass

    def remove_folder(self, key: str, marker: str) -> None:
        """Removes everything below `key`, first of all the marker."""
        found = self.find(key)
        if found:
            self.remove(f"{key}/{marker}")
            rest = [one for one in found if one != f"{key}/{marker}"]
            if rest:
                self.files.rm(rest)

    def kvstore(self, key: str) -> dict[str, Any]:
        """TensorStore's description of the folder `key`."""
        bucket, _, path = key.partition("/")
        if self.scheme == "gs":
            return {"driver": "gcs", "bucket": bucket, "path": f"{path}/"}
        if self.scheme != "s3":
            raise InputError(f"{self.scheme}://{key}: models are not read there; convert it (bin/convert_hf --source)")
        found = {"driver": "s3", "bucket": bucket, "path": f"{path}/"}
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            found |= {"endpoint": endpoint, "aws_region": region}
        return found


@functools.cache
def _store(scheme: str) -> Store:
    return Store(scheme)


def store_of(url: str) -> tuple[Store, str]:
    """The store of a URL, and the key in it.

    Raises:
      InputError: the scheme is not handled, its package is missing, or no bucket is named.
    """
    scheme, _, key = url.partition("://")
    if scheme not in SCHEMES:
        raise InputError(f"{url}: {scheme}:// is not handled; give one of {', '.join(SCHEMES)} or a path")
    key = key.strip("/")
    if not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InputError(f"{url}: names no folder or file in a bucket; write {scheme}://BUCKET/PATH")
    return _store(scheme), key
