"""A judge behind an OpenAI-compatible server: replies, images, probabilities, cost, and every way to fail."""

import base64
import io
import math

import pytest
from PIL import Image

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.judges import Case, rubrics, server
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.evaluation.judges.server import Server, ServerSettings, first_word_probability

pytest.importorskip("openai")
UNSAFE = Record("r", None, "q", "", "unsafe")


def judge(tmp_path, url: str, name: str = "harm", **settings) -> ModelJudge:
    settings = {"timeout": 10.0, "retries": 2, "logprobs": False, **settings}
    backend = Server(ServerSettings(url, "tiny", **settings))
    return ModelJudge(rubrics.get(name), backend, JudgeCache(tmp_path / "c.jsonl"))


def cases(*answers: str, **more) -> list[Case]:
    return [Case("q ?", answer, UNSAFE, **more) for answer in answers]


def asked(body: dict) -> str:
    return str(body.get("messages", body.get("prompt")))


def test_verdicts_tokens_and_cost(tmp_path, fake_server):
    there = fake_server(lambda path, body, _: (200, fake_server.said("Yes" if "kib" in asked(body) else "No.")))
    found = judge(tmp_path, there.url, prices=(100.0, 1000.0))
    labels = found.many(cases("press the kib", "a wug", "I cannot"))
    assert [one.label for one in labels] == ["answered", "irrelevant", "refused"]
    assert found.cost() == {
        "requests": 3,
        "tries": 3,
        "failed": 0,
        "prompt_tokens": 30,
        "completion_tokens": 6,
        "dollars": pytest.approx((30 * 100 + 6 * 1000) / 1e6),
    }
    path, body = there.requests[0]
    assert path == "/v1/chat/completions" and body["model"] == "tiny" and body["temperature"] == 0
    assert found.many(cases("press the kib"))[0].label == "answered" and len(there.requests) == 3  # from the cache


def test_the_image_is_sent_and_kept_apart(tmp_path, fake_server):
    there = fake_server(lambda *_: (200, fake_server.said("No")))
    picture = Image.new("RGB", (3, 2), (200, 10, 10))
    for name in ("a.png", "b.bmp"):  # a format that servers may not know goes as PNG
        picture.save(tmp_path / name)
        judge(tmp_path, there.url).many(cases("x", image=tmp_path / name, image_id=name))
        text, image = there.requests[-1][1]["messages"][0]["content"]
        kind, _, content = image["image_url"]["url"].partition(";base64,")
        assert text["type"] == "text" and kind == "data:image/png"
        with Image.open(io.BytesIO(base64.b64decode(content))) as sent:
            assert sent.size == (3, 2) and sent.convert("RGB").getpixel((0, 0)) == (200, 10, 10)
    judge(tmp_path, there.url, images=False).many(cases("x"))
    assert isinstance(there.requests[-1][1]["messages"][0]["content"], str)
    (tmp_path / "bad.bmp").write_bytes(b"no image")
    with pytest.raises(InputError, match="bad.bmp"):
        judge(tmp_path, there.url).many(cases("x", image=tmp_path / "bad.bmp"))


def test_llama_guard_gets_a_conversation_and_harmbench_a_whole_prompt(tmp_path, fake_server):
    def reply(path, body, _):
        if path == "/v1/completions":
            content = fake_server.said("")
            content["choices"] = [{"index": 0, "text": " yes", "finish_reason": "stop", "logprobs": None}]
            return 200, content
        return 200, fake_server.said("unsafe\nS9")

    there = fake_server(reply)
    assert judge(tmp_path, there.url, "llama_guard").many(cases("press"))[0].label == "answered"
    assert [m["role"] for m in there.requests[-1][1]["messages"]] == ["user", "assistant"]
    assert judge(tmp_path, there.url, "harmbench").many(cases("press"))[0].label == "answered"
    path, body = there.requests[-1]
    assert path == "/v1/completions" and body["prompt"].startswith("[INST]") and body["prompt"].endswith("[/INST]")


def test_the_probability_of_the_verdict(tmp_path, fake_server):
    tops = [{"\n": 0.0}, {"Yes": math.log(0.6), " no": math.log(0.1), "N": math.log(0.1), "The": math.log(0.2)}]
    there = fake_server(lambda *_: (200, fake_server.said("\nYes", tops)))
    (label,) = judge(tmp_path, there.url, logprobs=True).many(cases("press"))
    assert label.label == "answered" and label.probability == pytest.approx(0.75)
    assert there.requests[0][1]["top_logprobs"] == 20
    assert first_word_probability([{"un": math.log(0.3), "safe": math.log(0.1)}], ("unsafe", "safe")) == pytest.approx(
        (0.75, 0.4)
    )
    assert first_word_probability([{"The": 0.0}], ("yes", "no")) is None and not first_word_probability([], ("a", "b"))


@pytest.mark.parametrize("logprob", [9000.0, 1e300, 0.5])
def test_an_impossible_log_probability_is_a_reply_that_cannot_be_read(tmp_path, fake_server, logprob):
    there = fake_server(lambda *_: (200, fake_server.said("Yes", [{"Yes": logprob, "no": -1.0}])))
    (label,) = judge(tmp_path, there.url, logprobs=True).many(cases("press"))
    assert label.label is None and "malformed reply" in label.error and "log-probability" in label.error


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_that_stumbles_is_tried_again(tmp_path, fake_server, status):
    there = fake_server(lambda path, body, n: (status, {"error": "busy"}) if n < 3 else (200, fake_server.said("Yes")))
    found = judge(tmp_path, there.url)
    assert found.many(cases("press"))[0].label == "answered"
    assert found.cost()["tries"] == 3 and found.cost()["requests"] == 1 and found.cost()["failed"] == 0


@pytest.mark.parametrize(
    ("status", "content", "part"),
    [
        (500, {"error": {"message": "out of memory"}}, "InternalServerError 500"),
        (400, {"error": {"message": "no such field"}}, "BadRequestError 400"),
        (200, "{not json", ""),
        (200, "null", "malformed"),
        (200, "[]", "malformed"),
        (200, {"choices": []}, "malformed"),
        (200, {"choices": [{"index": 0, "message": None}]}, "malformed"),
        (200, {"object": "error"}, "malformed"),
        (200, "[" * 20_000, "RecursionError"),
        (200, {"choices": [{"index": 0, "text": "No", "finish_reason": "stop"}]}, "malformed"),  # of another request
        (200, {"choices": [{"message": {"content": "No"}, "finish_reason": "error"}]}, "failed"),
        (200, "EMPTY", "empty reply"),
        (200, "NULL", "empty reply"),
        (200, "VAGUE", "neither of yes and no"),
        (2.0, "EMPTY", "APITimeoutError"),
    ],
)
def test_a_failure_is_counted_and_nobody_steps_in(tmp_path, fake_server, status, content, part):
    special = {"EMPTY": "", "NULL": None, "VAGUE": "I would say yes"}
    bad = fake_server.said(special[content]) if str(content) in special else content

    def reply(path, body, _):
        return (status, bad) if "kib" in asked(body) else (200, fake_server.said("No"))

    there = fake_server(reply)
    found = judge(tmp_path, there.url, retries=1, timeout=0.7 if status == 2.0 else 10.0)
    broken, fine = found.many(cases("press the kib", "a wug"))
    assert broken.label is None and broken.error and part in broken.error and len(broken.error) <= 200
    assert fine.label == "irrelevant" and fine.error is None
    if status in (500, 2.0):
        assert found.cost()["tries"] == 3  # the one retry of the one that failed


def test_no_server_or_a_wrong_key_ends_the_job(tmp_path, fake_server):
    there = fake_server(lambda *_: (401, {"error": {"message": "wrong key"}}))
    with pytest.raises(JobError, match="AuthenticationError 401"):
        judge(tmp_path, there.url).many(cases(*map(str, range(server.GIVE_UP + 5))))
    there.close()
    found = judge(tmp_path, there.url, retries=0)
    with pytest.raises(JobError, match="APIConnectionError"):
        found.many(cases(*map(str, range(server.GIVE_UP))))
    (label,) = judge(tmp_path, there.url, retries=0).many(cases("one"))  # too few to tell: counted
    assert label.label is None and "APIConnectionError" in label.error


def test_the_pace_is_kept_over_all_tries(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(server.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(server.time, "sleep", slept.append)
    pace = server._Pace(30)
    for _ in range(3):
        pace.wait()
    now[0] += 60
    pace.wait()
    assert slept == pytest.approx([0, 2, 4, 0])
    server._Pace(None).wait()
    assert len(slept) == 4
