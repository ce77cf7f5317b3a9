"""Which questions are asked together: batches of few shapes, and groups of prompts with one beginning.

A prompt here is anything with `ids` (token ids, image placeholders expanded), `image_id` and `question.has_image`.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlm_mu_jax.data.prompts import bucket


@dataclasses.dataclass(frozen=True)
class SharedBatch:
    """Groups of prompts whose beginning runs once per group.

    starts: length of the beginning, per group. prefix_width, rest_width: padded widths of the beginnings and of what
    follows them. group_size: rows of every group once it is filled up.
    """

    groups: list[list[Any]]
    starts: list[int]
    prefix_width: int
    rest_width: int
    group_size: int


def plan_batches(prompts: Sequence[Any], batch_size: int) -> Iterator[tuple[int, list[Any]]]:
    """Splits prompts into (width, rows) batches of one kind each (with or without image), shortest first.

    A width with less than a batch of rows joins the next one: a compilation costs more than some padding.
    """
    for with_image in (False, True):
        rows = sorted((p for p in prompts if p.question.has_image == with_image), key=lambda p: len(p.ids))
        groups: dict[int, list[Any]] = {}
        for row in rows:
            groups.setdefault(bucket(len(row.ids)), []).append(row)
        waiting: list[Any] = []
        for at, (width, group) in enumerate(groups.items()):
            waiting += group
            if len(waiting) < batch_size and at + 1 < len(groups):
                continue
            for start in range(0, len(waiting), batch_size):
                yield width, waiting[start : start + batch_size]
            waiting = []


def split_shared(
    prompts: Sequence[Any], batch_size: int, image_token_id: int | None
) -> tuple[list[Any], list[list[Any]]]:
    """(prompts that are asked alone, groups of prompts with the same image and the same tokens up to its end).

    A group has at most `batch_size` prompts. When all groups together do not fill one batch, nothing is grouped:
    compiling their program would cost more than it saves.
    """
    found: dict[tuple, list[Any]] = {}
    for prompt in prompts:
        start = beginning(prompt.ids, image_token_id)
        key = (prompt.image_id, prompt.ids[:start]) if start else (None, id(prompt))
        found.setdefault(key, []).append(prompt)
    pieces = [group[at : at + batch_size] for group in found.values() for at in range(0, len(group), batch_size)]
    groups = [piece for piece in pieces if len(piece) > 1]
    if batch_size < 2 or sum(map(len, groups)) < batch_size:
        return list(prompts), []
    return [piece[0] for piece in pieces if len(piece) == 1], groups


def beginning(ids: Sequence[int], image_token_id: int | None) -> int:
    """The number of tokens up to the end of the last image. 0 without an image, or where nothing follows it."""
    if image_token_id is None or image_token_id not in ids:
        return 0
    end = len(ids) - tuple(reversed(ids)).index(image_token_id)
    return end if end < len(ids) else 0


def plan_shared(groups: Sequence[list[Any]], batch_size: int, image_token_id: int) -> Iterator[SharedBatch]:
    """Batches of `batch_size // group_size` groups (the last one may have fewer), small groups and short texts first.

    Sizes and widths are rounded up to a few values. Groups of one size and width that do not fill a batch are put
    together with those of the next.
    """

    def step(group: list[Any]) -> tuple[int, int, int]:
        start = beginning(group[0].ids, image_token_id)
        return prefix_width(start), _size(len(group), batch_size), bucket(max(len(p.ids) for p in group) - start)

    prefix_width = _prefix_width([beginning(group[0].ids, image_token_id) for group in groups])
    by_step = [(key, list(some)) for key, some in itertools.groupby(sorted(groups, key=step), key=step)]
    by_shape: dict[tuple[int, ...], list[list[Any]]] = {}  # two runs of joined steps may end up with one shape
    waiting: list[list[Any]] = []
    widest: tuple[int, ...] = (0, 0, 0)
    for at, (key, some) in enumerate(by_step):
        waiting += some
        widest = tuple(map(max, widest, key))
        if len(waiting) < batch_size // widest[1] and at + 1 < len(by_step):
            continue
        by_shape.setdefault(widest, []).extend(waiting)
        waiting, widest = [], (0, 0, 0)
    for (prefix, size, rest), some in by_shape.items():
        for first in range(0, len(some), batch_size // size):
            batch = some[first : first + batch_size // size]
            starts = [beginning(group[0].ids, image_token_id) for group in batch]
            yield SharedBatch(batch, starts, prefix, rest, size)


def _prefix_width(lengths: Iterable[int]):
    """Padded width of a beginning. Where all have one length, as with LLaVA-1.5, it is padded to a multiple of 8."""
    alike = len(set(lengths)) == 1
    return lambda length: -(-length // 8) * 8 if alike else bucket(length)


def _size(rows: int, most: int) -> int:
    """Rows of a group once it is filled up: 2, 3, 4, 6, 8, 12, ... and at most `most`."""
    sizes = itertools.chain.from_iterable((2**i, 3 * 2 ** (i - 1)) for i in itertools.count(1))
    return min(next(size for size in sizes if size >= rows), most)
