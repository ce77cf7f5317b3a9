"""Places take turns, results come by key, and a file spares what it holds: what was added to it is there again, a torn
line is not, and another search's file is started anew."""

import dataclasses

import numpy as np
import pytest

from tests.files.small_disk import small_disk
from vlm_mu_jax.attacks.margin import search_run
from vlm_mu_jax.attacks.margin.search_run import Counting, MarginsFile, SearchRun, WordScores
from vlm_mu_jax.errors import InputError, JobError


@dataclasses.dataclass(frozen=True)
class Sum:
    total: int
    whole: bool = True

    to_dict = dataclasses.asdict

    @classmethod
    def from_dict(cls, row):
        return cls(**row)


def adder(log):
    def begin(place, key, numbers):
        total = 0
        for number in numbers:
            log.append((place, key))
            total += number
            yield 1
        return Sum(total)

    return begin


ITEMS = {"a": (1, 2, 3), "b": (4,), "c": (5, 6)}


def test_places_take_turns():
    log = []
    found = search_run.results(ITEMS, adder(log), ["p", "q"])
    assert {key: one.total for key, one in found.items()} == {"a": 6, "b": 4, "c": 11}
    # "b" ends at q's second turn, without a yield; "c" begins there at its third
    assert log == [("p", "a"), ("q", "b"), ("p", "a"), ("p", "a"), ("q", "c"), ("q", "c")]


def test_a_file_spares_what_is_finished_and_progress_counts_the_rest(tmp_path):
    log, bars = [], []

    def progress(ticks, label, total):
        bars.append((label, total, sum(1 for _ in ticks)))
        return ()

    with MarginsFile(tmp_path / "f.jsonl", {}, Sum) as file:
        file.add("a", Sum(60))
        file.add("b", Sum(1, whole=False))
        run, whole = SearchRun(file=file, progress=progress), {"finished": lambda one: one.whole}
        found = search_run.results(ITEMS, adder(log), ["p"], run, Counting("sums", each=2, unit=2), **whole)
        assert found == {"a": Sum(60), "b": Sum(4), "c": Sum(11)} and {key for _, key in log} == {"b", "c"}
        assert bars == [("sums", 2, 1)]  # 3 of 4 planned units were needed
        assert search_run.results(ITEMS, adder(log), ["p"], run, Counting("sums"), **whole) == found and len(bars) == 1


ONE = {"weights": "abc", "openings": ((5,), (7, 8))}


def scores(seed=0):
    margins = np.random.default_rng(seed).normal(size=(2, 5)).astype(np.float32)
    return WordScores(0.1 + seed, margins, np.array([[1, 0], [4, -1]]), np.array([0, 3]), 1e12)


def same(a, b):
    np.testing.assert_array_equal(a.margins_PW, b.margins_PW)
    np.testing.assert_array_equal(a.best_PK, b.best_PK)
    np.testing.assert_array_equal(a.in_full_P, b.in_full_P)
    assert (a.original, a.flops) == (b.original, b.flops)


def test_scores_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "new" / "margins.jsonl"
    with MarginsFile(path, ONE) as file:
        assert not file.resumed and file.get("q1") is None
        file.add("q1", scores(1))
        file.add("q2", scores(2))
        same(file.get("q1"), scores(1))
    with MarginsFile(path, ONE) as file:
        assert file.resumed
        same(file.get("q1"), scores(1))
        same(file.get("q2"), scores(2))


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_a_torn_last_line_is_cut_off(tmp_path, cut):
    path = tmp_path / "margins.jsonl"
    with MarginsFile(path, ONE) as file:
        file.add("q1", scores(1))
        whole = path.stat().st_size
        file.add("q2", scores(2))
    path.write_bytes(path.read_bytes()[:-cut])
    with MarginsFile(path, ONE) as file:
        same(file.get("q1"), scores(1))
        assert file.get("q2") is None and path.stat().st_size == whole
        file.add("q2", scores(2))
    with MarginsFile(path, ONE) as file:
        same(file.get("q2"), scores(2))


def test_a_torn_first_line_is_started_anew(tmp_path):
    path = tmp_path / "margins.jsonl"
    path.write_bytes(b'{"schema": 1, "sea')
    with MarginsFile(path, ONE) as file:
        assert not file.resumed
        file.add("q1", scores(1))
    with MarginsFile(path, ONE) as file:
        assert file.resumed and file.get("q1") is not None


def test_another_search_starts_anew(tmp_path):
    path = tmp_path / "margins.jsonl"
    with MarginsFile(path, ONE) as file:
        file.add("q1", scores(1))
    with MarginsFile(path, ONE | {"weights": "other"}) as file:
        assert not file.resumed and file.get("q1") is None
    with MarginsFile(path, ONE) as file:
        assert not file.resumed


@pytest.mark.parametrize("size", [10, 60])
def test_a_full_disk_names_the_file(tmp_path, size):
    path = tmp_path / "m.jsonl"
    with (
        small_disk(size),
        pytest.raises(OSError, match=f"File too large: '{path}'"),
        MarginsFile(path, {}, Sum) as file,
    ):
        for number in range(9):
            file.add(f"question {number}", Sum(number))


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "margins.jsonl"
    with MarginsFile(path, ONE), pytest.raises(JobError, match="another attack"):
        MarginsFile(path, ONE)


def test_damage_is_named(tmp_path):
    path = tmp_path / "margins.jsonl"
    with MarginsFile(path, ONE) as file:
        file.add("q1", scores(1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"key": "q1"}\n')
    with pytest.raises(InputError, match="margins.jsonl: damaged"):
        MarginsFile(path, ONE)
