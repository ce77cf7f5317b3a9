"""A judge that asks a model: what is asked, what is kept, and that errors stay errors."""

import json

import pytest

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, judge_many, rubrics
from vlm_mu_jax.evaluation.judges.cache import JudgeCache, content_key
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.evaluation.judges.rubrics import Reply

UNSAFE = Record("r", None, "q", "", "unsafe")


class Echo:
    """Replies Yes to answers that hold "yes", fails on those that hold "fail", No to the rest; last prompt first."""

    sees_images = True

    def __init__(self, name: str = "echo"):
        self.name = self.identity = name
        self.asked = []

    def ask(self, prompts, words, max_tokens):
        self.asked += prompts
        for index in reversed(range(len(prompts))):
            answer = prompts[index].answer
            failed = "fail" in answer
            yield index, Reply(error="broken") if failed else Reply(text="Yes" if "yes" in answer else "No")

    def cost(self):
        return {"requests": len(self.asked)}


def make(path, backend, name: str = "harm", prompt=None) -> ModelJudge:
    return ModelJudge(rubrics.get(name, prompt), backend, JudgeCache(path))


def cases(*answers: str, **more) -> list[Case]:
    return [Case("q ?", answer, UNSAFE, **more) for answer in answers]


def test_labels_come_back_in_order_and_once_asked_is_enough(tmp_path):
    echo = Echo()
    judge = make(tmp_path / "c.jsonl", echo)
    labels = judge.many(cases("yes a", "b", "fail", "yes a", ""))
    assert [one.label for one in labels] == ["answered", "irrelevant", None, "answered", "irrelevant"]
    assert labels[2].error == "broken" and len(echo.asked) == 3 and judge.name == "harm:echo"
    assert isinstance(judge, BatchJudge) and judge_many(judge, cases("yes a"))[0].label == "answered"
    again = make(tmp_path / "c.jsonl", later := Echo())
    assert [one.label for one in again.many(cases("yes a", "b", "fail"))] == ["answered", "irrelevant", None]
    assert [prompt.answer for prompt in later.asked] == ["fail"]  # only what failed is asked again


class Mumbles(Echo):
    """Replies what no rubric can read."""

    def ask(self, prompts, words, max_tokens):
        self.asked += prompts
        yield from ((index, Reply(text="It is safe to proceed.")) for index in range(len(prompts)))


def test_a_reply_that_cannot_be_read_is_not_kept(tmp_path):
    path = tmp_path / "c.jsonl"
    (broken,) = make(path, Mumbles()).many(cases("yes a"))
    assert broken.label is None and "neither of yes and no" in broken.error
    (repaired,) = make(path, echo := Echo("echo")).many(cases("yes a"))
    assert repaired.label == "answered" and len(echo.asked) == 1


@pytest.mark.parametrize(
    ("kept", "asked"), [({"text": "Hm."}, 1), ({"text": 3}, 1), ([], 1), ({"text": "Yes", "later": 1}, 0)]
)
def test_an_unreadable_reply_that_another_version_kept_is_asked_again(tmp_path, kept, asked):
    judge = make(tmp_path / "c.jsonl", Echo())
    judge.many(cases("yes a"))
    (line,) = (tmp_path / "c.jsonl").read_text().splitlines()
    (tmp_path / "c.jsonl").write_text(json.dumps({**json.loads(line), "reply": kept}) + "\n")
    (label,) = make(tmp_path / "c.jsonl", later := Echo()).many(cases("yes a"))
    assert label.label == "answered" and len(later.asked) == asked


def test_the_cache_knows_what_a_verdict_was_made_from(tmp_path):
    path, wording = tmp_path / "c.jsonl", tmp_path / "w.txt"
    wording.write_text("{answer} ?")
    picture = tmp_path / "a.png"
    make(path, Echo()).many(cases("yes", image=picture, image_id="one"))
    for judge, some, new in [
        (make(path, one := Echo()), cases("yes", image=picture, image_id="one"), 0),
        (make(path, two := Echo()), cases("yes", image=picture, image_id="two"), 1),
        (make(path, three := Echo()), cases("yes"), 1),
        (make(path, four := Echo("other model")), cases("yes"), 1),
        (make(path, five := Echo(), prompt=wording), cases("yes"), 1),
        (make(path, six := Echo()), [Case("other ?", "yes", UNSAFE)], 1),
    ]:
        judge.many(some)
        assert len(judge.backend.asked) == new
    assert [len(echo.asked) for echo in (one, two, three, four, five, six)] == [0, 1, 1, 1, 1, 1]


def test_a_torn_line_is_forgotten_and_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "deep" / "c.jsonl"
    cache = JudgeCache(path)
    cache.put("k", {"text": "Yes"})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "l", "re')
    cache = JudgeCache(path)
    assert cache.get("k") == {"text": "Yes"} and cache.get("l") is None and path.read_bytes() == whole
    path.write_bytes(whole + b"[]\n")
    with pytest.raises(InputError, match="line 2"):
        JudgeCache(path)


def test_keys_tell_contents_apart():
    assert content_key("ab", "c") != content_key("a", "bc") and content_key("a", None) != content_key("a", "None")
    assert len(json.dumps(content_key("\ud800"))) == 66  # half a surrogate pair, as broken model text may hold
