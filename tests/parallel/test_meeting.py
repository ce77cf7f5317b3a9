"""Processes meet with what each brings; one that is gone is named. The coordination service is a dictionary here."""

import threading

import jax
import pytest

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.parallel import meeting


class Service:
    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
        return self.values[key]


@pytest.fixture
def service(monkeypatch):
    """This process is 0 of 3; it gives no signs of its own."""
    found = Service()
    monkeypatch.setattr(meeting, "_client", lambda: found)
    monkeypatch.setattr(meeting, "_signs", threading.current_thread())
    monkeypatch.setattr(meeting, "_calls", meeting.collections.Counter())
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    for name, seconds in (("SIGN_SECONDS", 0.01), ("GONE_SECONDS", 0.1), ("SLOW_SECONDS", 0.03)):
        monkeypatch.setattr(meeting, name, seconds)
    return found


def test_everyone_gets_what_everyone_brought(service):
    for call in (1, 2):
        for process in (1, 2):
            service.key_value_set(f"vlm_mu_jax/answers/{call}/{process}", f'{{"n": {process * call}}}')
    assert meeting.meet("answers", {"n": 0}) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert meeting.meet("answers", {"n": 0}) == [{"n": 0}, {"n": 2}, {"n": 4}]


def test_a_process_without_signs_of_life_is_named(service):
    service.key_value_set("vlm_mu_jax/answers/1/1", "null")
    with pytest.raises(JobError, match="process 2 is gone: .* while the others wait for its answers; what is finished"):
        meeting.meet("answers")


def test_a_slow_process_is_named_and_waited_for(service):
    told = []

    def signs():
        for number in range(25):
            service.key_value_set("vlm_mu_jax/alive/1", str(number), allow_overwrite=True)
            threading.Event().wait(0.01)
        service.key_value_set("vlm_mu_jax/answers/1/1", "1")

    service.key_value_set("vlm_mu_jax/answers/1/2", "2")
    slow = threading.Thread(target=signs)
    slow.start()
    assert meeting.meet("answers", 0, told.append) == [0, 1, 2]
    slow.join()
    assert told and told[0].startswith("waiting for process 1 (answers) for")


def test_a_job_of_one_process_meets_itself():
    assert meeting.meet("answers", 5) == [5]


class SilentService:
    """Takes a message and never answers, as a service whose process has ended meanwhile."""

    def __init__(self) -> None:
        self.told, self._never = [], threading.Event()

    def key_value_set(self, key: str, value: str) -> None:
        self.told.append(key)
        self._never.wait()


def test_a_process_parts_although_process_0_does_not_answer_any_more(monkeypatch):
    service = SilentService()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for name, value in {"_client": lambda: service, "meet": lambda what: [], "FAREWELL_SECONDS": 0.05}.items():
        monkeypatch.setattr(meeting, name, value)
    for name in ("_parted", "_watching"):
        monkeypatch.setattr(meeting, name, getattr(meeting, name))  # given back afterwards
    meeting.part()
    assert service.told == ["vlm_mu_jax/parted/1"] and meeting._parted == 0
