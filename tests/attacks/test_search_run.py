"""Places take turns, results come by key, and a file spares what it holds."""

import dataclasses

from vlm_mu_jax.attacks import search_run
from vlm_mu_jax.attacks.margins_file import MarginsFile
from vlm_mu_jax.attacks.search_run import Counting, SearchRun


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
