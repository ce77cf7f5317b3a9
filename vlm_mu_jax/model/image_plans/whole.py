"""One encoded image per picture."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlm_mu_jax.model.image_plans.image_plan import Layout, Size, View


@dataclasses.dataclass(frozen=True)
class Whole:
    """One encoded image per picture, whose tokens stand in order.

    P: image tokens of an encoded image. before, after: texts around them in a prompt.
    """

    P: int
    before: str = ""
    after: str = ""
    mark: str | None = None

    @property
    def tiles(self) -> int:
        return 1

    @property
    def most_tokens(self) -> int:
        return self.P

    @property
    def varies(self) -> bool:
        return False

    @property
    def extra(self) -> int:
        return 0

    def layout(self, size: Size) -> Layout:
        return tuple(part for part in (self.before, self.P, self.after) if part)

    def views(self, size: Size) -> tuple[View, ...]:
        return (View(),)

    def gather(self, size: Size) -> None:
        return None

    def fitted(self, fields: Mapping[str, Any]) -> "Whole":
        return self

    def problems(self) -> list[str]:
        return []
