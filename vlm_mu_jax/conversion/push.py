"""An exported folder to the Hugging Face hub."""

import re
from collections.abc import Callable
from pathlib import Path

from vlm_mu_jax.errors import InputError, JobError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(repository: str) -> None:
    """Raises InputError unless it is ORG/NAME."""
    if not _NAME.fullmatch(repository):
        raise InputError(f"--push={repository}: write ORG/NAME, the repository on the hub")


def push(folder: Path, repository: str, dry_run: bool, say: Callable[[str], None]) -> None:
    """Uploads the folder to a repository, which is made as a private one if it is not there.

    Args:
      dry_run: only says what would go.
      say: told every file.

    Raises:
      JobError: the hub refuses it or cannot be reached.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    say(f"{'would go' if dry_run else 'going'} to {repository} (private if it is new):")
    for path in files:
        say(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes")
    if dry_run:
        return
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # unrelated types for no network, no access, no such organisation
        reason = " ".join(str(error).split())[:200]
        raise JobError(f"--push={repository}: {type(error).__name__}: {reason}") from error
