"""Which questions are asked together: every one once, in few shapes, groups only where prompts begin alike."""

import dataclasses

from hypothesis import example, given
from hypothesis import strategies as st

from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.evaluation.answers.batches import beginning, plan_batches, plan_shared, split_shared
from vlm_mu_jax.evaluation.questions.question import Question

IMAGE = 9


@given(st.integers(1, 100_000))
def test_a_bucket_is_wide_enough_and_not_too_wide(length):
    width = bucket(length)
    assert length <= width < max(length * 1.25 + 1, length + 8) and width % 8 == 0


def test_there_are_few_buckets():
    assert len({bucket(n) for n in range(1, 4097)}) <= 40


@dataclasses.dataclass(frozen=True)
class Row:
    question: Question
    ids: tuple
    image_id: str | None = None


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=60), st.integers(1, 8))
def test_batches_hold_every_row_once_and_fit(rows, size):
    prompts = [
        Row(Question(str(i), "", "blank:white" if image else None), (0,) * n) for i, (n, image) in enumerate(rows)
    ]
    batches = list(plan_batches(prompts, size))
    assert sorted(p.question.id for _, batch in batches for p in batch) == sorted(p.question.id for p in prompts)
    for width, batch in batches:
        assert 0 < len(batch) <= size and max(len(p.ids) for p in batch) <= width
        assert len({p.question.has_image for p in batch}) == 1
    short = [len(batch) for _, batch in batches if len(batch) < size]
    shapes = {(width, batch[0].question.has_image) for width, batch in batches}
    assert len(short) <= len(shapes)  # only the last batch of a shape is filled up


def test_a_beginning_reaches_to_the_end_of_the_last_image():
    assert beginning((1, IMAGE, IMAGE, 2), IMAGE) == 3
    assert beginning((1, IMAGE, 2, IMAGE, IMAGE, 3, 4), IMAGE) == 5
    assert beginning((1, 2, 3), IMAGE) == beginning((1, 2, IMAGE), IMAGE) == beginning((1, IMAGE, 2), None) == 0


def row(name, before, image, after, image_id):
    return Row(Question(name, "", "blank:white" if image else None), before + (IMAGE,) * image + after, image_id)


images = st.tuples(st.integers(0, 4), st.integers(0, 12), st.integers(1, 3))  # which, tokens of text, tokens of image


# groups of 4, 2, 2 and 4 rows: some are joined once, some later, to the same shape
JOINED_TWICE = [(0, 1, 2)] * 3 + [(0, 9, 2)] + [(1, 1, 1)] * 2 + [(2, 1, 1)] + [(2, 1, 2)] * 4 + [(2, 9, 1)]


@given(st.lists(images, max_size=60), st.integers(1, 16))
@example(JOINED_TWICE, 8)
def test_groups_hold_every_row_once_with_its_own_beginning(drawn, size):
    rows = [
        row(str(i), (1,), 4 * tokens, (2,) * text, f"{which}{tokens}") for i, (which, text, tokens) in enumerate(drawn)
    ]
    alone, groups = split_shared(rows, size, IMAGE)
    batches = list(plan_shared(groups, size, IMAGE))
    asked = [p for batch in batches for group in batch.groups for p in group]
    assert sorted(p.question.id for p in [*alone, *asked]) == sorted(p.question.id for p in rows)
    for batch in batches:
        assert len(batch.groups) <= size // batch.group_size
        for group, start in zip(batch.groups, batch.starts, strict=True):
            assert 1 < len(group) <= batch.group_size and start <= batch.prefix_width
            assert len({(p.image_id, p.ids[:start]) for p in group}) == 1 and group[0].ids[start - 1] == IMAGE
            assert all(0 < len(p.ids) - start <= batch.rest_width for p in group)
    assert len(batches) <= len({(b.prefix_width, b.rest_width, b.group_size) for b in batches}) + sum(
        len(b.groups) == size // b.group_size for b in batches
    )  # only the last batch of a shape is filled up
    assert not groups or sum(map(len, groups)) >= size


def test_what_is_not_grouped():
    """Another image, a question before the image, no image, and groups that fill no batch."""
    same = [row(str(i), (1,), 4, (2, i), "a") for i in range(4)]
    other = [row("o", (1,), 4, (2,), "b"), row("q", (1, 3), 4, (2,), "a"), row("t", (1,), 0, (2,), None)]
    assert split_shared(same + other, 4, IMAGE) == (other, [same])
    assert split_shared(same + other, 5, IMAGE) == (same + other, [])
    assert split_shared(same, 1, IMAGE) == (same, [])
    (batch,) = plan_shared([same[:3]], 8, IMAGE)
    assert (batch.group_size, batch.prefix_width, batch.rest_width, batch.starts) == (3, 8, 8, [5])
