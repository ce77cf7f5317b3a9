"""Which records an audit is about, and which of their reference answers refuse."""

from collections.abc import Sequence

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.judges import RefusalJudge


def refuses(record: Record) -> bool:
    """Whether the judge `refusal` calls the record's reference answer a refusal."""
    return RefusalJudge()(record.question, record.answer, record).label == "refused"


def safety_records(records: Sequence[Record]) -> list[Record]:
    """The records an audit is about: the safe and unsafe ones, or all where none is either."""
    return [r for r in records if r.kind in ("unsafe", "safe")] or list(records)
