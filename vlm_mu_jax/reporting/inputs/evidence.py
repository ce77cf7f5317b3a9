"""Further files that a report can show. Each is a flag of `bin/report` and a field of `ReportOptions`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """A further JSON file of the report. `what`: the help of its flag. `rows`: the field that is a list of objects."""

    what: str
    rows: str


# The figures made of these files are those of `figures.catalogue.FIGURES`.
EVIDENCE = {
    "sweep": Evidence("sweep.json that bin/train wrote for a config with a sweep", "rows"),
    "relearning": Evidence("relearn.json of bin/relearn", "curve"),
    "saliency": Evidence("audit.json of bin/audit --saliency: which words of a question decide a refusal", "rows"),
    "methods": Evidence("attack.json of bin/attack with another --method than one_word", "rows"),
    "defences": Evidence("defences.json of bin/defences: defences by instruction setting and image", "rows"),
}
