"""Further files that a report can show. Each is a flag of `bin/report` and a field of `ReportOptions`."""

from dataclasses import dataclass

from vlm_mu_jax.formats.attack import MethodsFile
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.guards import DefencesFile
from vlm_mu_jax.formats.stress import HoldsFile
from vlm_mu_jax.formats.training import RelearningFile, SweepFile


@dataclass(frozen=True)
class Evidence:
    """A further JSON file of the report. `what`: the help of its flag. `kind`: its format."""

    what: str
    kind: type


# The figures made of these files are those of `figures.catalogue.FIGURES`.
EVIDENCE = {
    "sweep": Evidence("sweep.json that bin/train wrote for a config with a sweep", SweepFile),
    "relearning": Evidence("relearn.json of bin/relearn", RelearningFile),
    "saliency": Evidence("audit.json of bin/audit --saliency: which words of a question decide a refusal", AuditFile),
    "methods": Evidence("attack.json of bin/attack with another --method than one_word", MethodsFile),
    "holds": Evidence("holds.json of bin/holds: what a model's safety survives", HoldsFile),
    "defences": Evidence("defences.json of bin/defences: defences by instruction setting and image", DefencesFile),
}
