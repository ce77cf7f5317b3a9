"""audit.json: the audit of a data file, and beside it what attacks and a model say of the same words."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.attacks.audit.attribution import attribute
from vlm_mu_jax.attacks.audit.audit import AuditOptions, audit
from vlm_mu_jax.attacks.audit.saliency import record_saliency
from vlm_mu_jax.data import turns
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.formats.attack import AttackFile
from vlm_mu_jax.formats.reading import read_file
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder


def content(
    records: Records,
    file: Path,
    options: AuditOptions = AuditOptions(),
    *,
    attacks: Sequence[str | Path] = (),
    checkpoint: str | Path | None = None,
    saliency: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The content of audit.json, as `formats.audit` describes it.

    Args:
      records: the data, read from `file`.
      attacks: attack.json of a model that was tuned on the data, and that of one tuned on rebalanced data, if there is.
      checkpoint: folder of a model that is asked which words decide, in at most `saliency` questions; 0 asks none.

    Raises:
      InputError: see `audit`, `attribute` and `record_saliency`; a file or model is missing or damaged.
    """
    found = audit(records, options).to_dict()
    miniature = (file.parent / "oracle.json").is_file()  # only it has one: its text is nonsense words, safe to show
    found["data"] = {"file": file.name, "sha256": records.sha256, "miniature": miniature}
    if attacks:
        searched = (read_file(one, AttackFile) for one in attacks)
        found["attribution"] = attribute(found, *searched, seed=options.seed)
    if saliency:
        asked = dataclasses.replace(records, items=tuple(turns.cut(records, options.turn)[0]))
        model = model_folder.load(checkpoint)
        salient = record_saliency(model, asked, saliency, seed=options.seed, progress=progress)
        found["saliency"] = salient | {"model": resolved(checkpoint).name}
    return found
