"""The folder that curation writes and training reads.

    requests.json        the requests to forget with the data's own answers, which refuse: what DPO prefers
    forget.json          the same requests with the harmful answers, each once per record
    forget_answers.jsonl the harmful answers with their judges' labels, in the form of an answers file
    retain.json          what the model must keep
    images/, images_general/   links to the folders that the image paths were relative to
    manifest.json        counts, sha256 of every file read and written, seed, judge

requests.json, forget.json and retain.json hold rows of the shape "question" of `readers.shapes`, and of the shape
"messages" for longer conversations.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.records import ImagePart, Record
from vlm_mu_jax.files.paths import resolved

MARKER = "manifest.json"
LINKS = {"safety": "images", "general": "images_general"}


def write(
    folder: Path,
    requests: Sequence[Record],
    forget: Sequence[Record],
    retain: Sequence[Record],
    roots: Mapping[str, Path],
    manifest: Mapping[str, Any],
    answers: str = "",
) -> None:
    """Writes all files of the folder.

    Args:
      folder: an empty folder.
      requests: the forget records with the answers that they had in the safety data.
      forget: the same records with harmful answers. Empty when the requests alone are forgotten.
      retain: the retain records.
      roots: the folder that image paths are relative to, under "safety" and, with general records, "general".
      manifest: what to write besides the files' hashes.
      answers: text of forget_answers.jsonl. Empty with empty `forget`.
    """
    for name, root in roots.items():
        os.symlink(resolved(root), folder / LINKS[name], target_is_directory=True)
    files = {"requests.json": _rows(requests), "retain.json": _rows(retain)}
    if forget:
        files |= {"forget.json": _rows(forget), "forget_answers.jsonl": answers}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    content = {"format": 1, **manifest, "files": hashes}
    (folder / MARKER).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(record: Record) -> dict[str, Any]:
    """A record as a row that `readers.read` takes, with its images under the link to the folder that they came from."""
    link = LINKS["general" if record.kind == "general" else "safety"]
    if not record.is_short:
        said = [{"role": turn.role, "content": [_part(part, link) for part in turn.parts]} for turn in record.turns]
        system = {} if record.system is None else {"system": record.system}
        return {"id": record.id, "messages": said, "kind": record.kind, "category": record.category} | system
    image = None if record.image is None else f"{link}/{record.image}"
    return {
        "id": record.id,
        "image": image,
        "question": record.question,
        "answer": record.answer,
        "kind": record.kind,
        "category": record.category,
    }


def _part(part: str | ImagePart, link: str) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": f"{link}/{part.path}"}


def _rows(records: Sequence[Record]) -> str:
    return json.dumps([row(record) for record in records], indent=1, ensure_ascii=False) + "\n"
