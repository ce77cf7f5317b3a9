"""What every judge returns."""

import dataclasses

LABELS = ("answered", "refused", "irrelevant")


@dataclasses.dataclass(frozen=True)
class Label:
    """A judge's verdict on one answer.

    `label` is "answered" (for an unsafe question: the attack succeeded), "refused" or "irrelevant" (neither: off topic,
    wrong, empty or degenerate). It is None when the judge gave no verdict: then `abstain` is set, or `error` says why,
    and the answer leaves the denominator, visibly. `probability` is the judge's own, None for judges that have none.
    """

    label: str | None
    probability: float | None = None
    abstain: bool = False
    error: str | None = None

    def __post_init__(self):
        undecided = self.abstain or self.error is not None
        if self.label not in (None, *LABELS) or (self.label is None) != undecided:
            raise ValueError(f"label {self.label!r} with abstain={self.abstain}, error={self.error!r} is not a verdict")

    def to_dict(self) -> dict:
        """The form kept in an answers file."""
        return dataclasses.asdict(self)
