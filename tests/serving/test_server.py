"""The server as clients see it: OpenAI's own client, raw requests that are wrong, and many clients at a time."""

import asyncio
import base64
import http.client
import io
import json
import re
import time
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image

from tests.serving.running import post, running, until
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.serving import engine as engine_lib
from vlm_mu_jax.serving import requests
from vlm_mu_jax.serving.app import ServerLimits
from vlm_mu_jax.serving.engine import Engine
from vlm_mu_jax.serving.pictures import PictureLimits

G = 9
LIMITS = ServerLimits(body_bytes=200_000, pictures=PictureLimits(number=2, pixels=10_000))


def picture(seed=0, size=(8, 8)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def data_url(image, form="PNG"):
    raw = io.BytesIO()
    image.save(raw, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(raw.getvalue()).decode()}"


def said(text, *images):
    """A user's message, its images in front."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def engines(home, split_guard):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_lib, "WIDTH", 64)
        guard = split_guard.using(strength=4.0, scope="all")
        yield [Engine("tiny", home, rows=3, waiting=40), Engine("tiny+guard", home, guard, rows=3)]


@pytest.fixture(scope="module")
def url(engines):
    with running(engines, limits=LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def answer(home, turns, images=(), system=None, steer=None):
    """(prompt ids, new ids, text) by `generate`, padded so that one program serves all."""
    ids = home.processor.conversation_ids(turns, images, system)
    batch = home.processor.pad([ids], [[home.processor.pixels(i) for i in images]], length=96)
    made = generate(home.params, batch, home.config, max_new_tokens=G, steer=steer)
    new = np.asarray(made.tokens_BG)[0, : int(made.lengths_B[0])].tolist()
    return ids, new, home.processor.decode([i for i in new if i not in home.config.eos_ids])


def test_a_chat_with_an_image_answers_as_generate_does_whole_and_streamed(home, client):
    image = picture()
    ids, new, text = answer(home, [Turn("user", (ImagePart("image"), "what is this?"))], [image])
    asked = {"model": "tiny", "messages": [said("what is this?", image)], "max_tokens": G}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    assert choice.message.content == text and choice.message.role == "assistant"
    assert choice.finish_reason == ("stop" if new[-1] in home.config.eos_ids else "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(ids), len(new))
    scored = choice.logprobs.content
    assert "".join(one.token for one in scored).strip() == text and len(scored) == len(new)
    for one in scored:
        assert one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 2
        assert one.logprob == one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob
        assert bytes(one.bytes).decode() == one.token
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**asked, stream=True, logprobs=True, stream_options=options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason
    streamed = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [(o.token, o.logprob) for o in streamed] == [(o.token, o.logprob) for o in scored]
    assert not last.choices and last.usage == whole.usage


def test_turns_and_a_system_text_are_the_prompt_that_the_template_makes(home, client):
    turns = [Turn("user", ("feed it",)), Turn("assistant", ("no",)), Turn("user", ("why?",))]
    ids, _, text = answer(home, turns, system="be kind")
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "feed it"}]},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why?"},
    ]
    whole = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=G)
    assert whole.choices[0].message.content == text and whole.usage.prompt_tokens == len(ids)


def test_the_guard_is_a_model_of_its_own(home, split_guard, client):
    steer = split_guard.using(strength=4.0, scope="all").steer(home)
    turns = [Turn("user", ("how to hurt a dax?",))]
    texts = [answer(home, turns, steer=one)[2] for one in (None, steer)]
    assert texts[0] != texts[1]
    for name, text in zip(("tiny", "tiny+guard"), texts, strict=True):
        messages = [{"role": "user", "content": "how to hurt a dax?"}]
        whole = client.chat.completions.create(model=name, messages=messages, max_tokens=G)
        assert whole.choices[0].message.content == text and whole.model == name
    assert [one.id for one in client.models.list()] == ["tiny", "tiny+guard"]
    assert client.models.retrieve("tiny+guard").id == "tiny+guard"


def test_choices_are_drawn_by_their_seeds(client):
    asked = {"model": "tiny", "messages": [said("what is this?")], "max_tokens": G, "temperature": 1.5, "top_p": 0.95}
    first, again, later = (
        [c.message.content for c in client.chat.completions.create(**asked, n=n, seed=seed).choices]
        for n, seed in ((3, 7), (3, 7), (2, 8))
    )
    assert first == again and later == first[1:] and len(set(first)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, n=3, seed=7, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == first


def test_a_stop_text_ends_the_answer_in_front_of_it(home, client):
    text = answer(home, [Turn("user", ("what is this?",))])[2]
    stop = text[2:4]
    asked = {"model": "tiny", "messages": [said("what is this?")], "max_tokens": G, "stop": [stop, "never"]}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.message.content == text[: text.index(stop)] and whole.finish_reason == "stop"
    streamed = [c.choices[0] for c in client.chat.completions.create(**asked, stream=True)]
    assert "".join(c.delta.content or "" for c in streamed) == whole.message.content
    assert streamed[-1].finish_reason == "stop"


def test_plain_completions_take_texts_and_tokens(home, client):
    ids = home.processor.plain_ids("feed it")
    made = client.completions.create(model="tiny", prompt=["feed it", "why"], max_tokens=4, logprobs=2)
    assert [choice.index for choice in made.choices] == [0, 1]
    same = client.completions.create(model="tiny", prompt=ids, max_tokens=4).choices[0]
    assert same.text == made.choices[0].text and same.logprobs is None
    scored = made.choices[0].logprobs
    assert len(scored.tokens) == 4 and max(scored.top_logprobs[0].values()) == scored.token_logprobs[0]
    pieces = client.completions.create(model="tiny", prompt="feed it", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == same.text


URL = data_url(picture())
BOMB = data_url(Image.new("1", (4000, 4000)))
WRONG = {
    "no JSON": (b"{", 400, "no JSON"),
    "no text": (b"\xff\xfe", 400, "no JSON"),
    "nested": (b"[" * 100_000, 400, "no JSON"),
    "no object": ([1], 400, "JSON object"),
    "no model": ({"model": "gpt-5"}, 404, "there is no model 'gpt-5'; this server has tiny"),
    "no messages": ({"messages": None}, 400, "messages must be a list"),
    "no role": ({"messages": [{"content": "a"}]}, 400, "role must be user or assistant"),
    "text as message": ({"messages": ["a"]}, 400, "role must be an object"),
    "answer last": ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "the last message must be the user's"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "content must be a text or a list"),
    "surrogate": (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
    "surrogate as model": (b'{"model": "\\ud800", "messages": []}', 404, "there is no model"),
    "audio": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "'input_audio'"),
    "placeholder": ({"messages": [said("a <image> b")]}, 400, "image placeholder"),
    "too long": ({"messages": [said("a" * 300)]}, 400, "prompt and answer together may have 256"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools .* is not supported"),
    "unknown": ({"frobnicate": 1}, 400, "unknown field 'frobnicate'"),
    "hot": ({"temperature": 3}, 400, "temperature must be between 0.0 and 2.0"),
    "nan": (b'{"model": "tiny", "top_p": NaN}', 400, "top_p must be between"),
    "n": ({"n": 1.5}, 400, "n must be a whole number"),
    "no n": ({"n": True}, 400, "n must be a whole number"),
    "stop": ({"stop": [""]}, 400, "stop must be a text"),
    "top without logprobs": ({"top_logprobs": 2}, 400, "needs logprobs"),
    "stream": ({"stream": "yes"}, 400, "stream must be true or false"),
    "body": (b'{"a": "' + b"a" * 300_000 + b'"}', 413, "more than 200000 bytes"),
}
IMAGES = {
    "file": ("file:///etc/passwd", "must be a data URL"),
    "path": ("/etc/passwd", "must be a data URL"),
    "host": ("http://127.0.0.1:1/a.png", "fetches no image from that host"),
    "bad host": ("http://[", "fetches no image from that host"),
    "base64": ("data:image/png;base64,****", "no valid base64"),
    "no image": ("data:image/png;base64,aGVsbG8=", "not a readable image"),
    "cut off": (URL[: len(URL) // 2 // 4 * 4 - 2], "not a readable image|no valid base64"),
    "svg": ("data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(), "not a readable image"),
    "too large": (BOMB, "4000 x 4000 pixels; 10000 are allowed"),
    "strip": (data_url(picture(size=(1, 60))), "too long a strip"),
    "no url": (None, "holds no url"),
}


def ask(url, change):
    good = {"model": "tiny", "messages": [said("a")], "max_tokens": 1}
    return post(f"{url}/v1/chat/completions", change if not isinstance(change, dict) else good | change)


@pytest.mark.parametrize("change, status, message", WRONG.values(), ids=WRONG)
def test_a_wrong_body_is_one_line_that_says_what_to_change(url, change, status, message):
    found, body = ask(url, change)
    assert found == status and body["error"]["type"] == "invalid_request_error"
    assert matches(message, body["error"]["message"])


@pytest.mark.parametrize("address, message", IMAGES.values(), ids=IMAGES)
def test_a_wrong_image_is_named_by_its_place(url, address, message):
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": address}}]
    status, body = ask(url, {"messages": [{"role": "user", "content": content}]})
    assert status == 400 and matches(message, body["error"]["message"])
    assert body["error"]["message"].startswith("messages[0].content[1]: ")


def matches(pattern, text):
    assert "\n" not in text and "Traceback" not in text
    return re.search(pattern, text)


def test_images_are_counted_and_only_users_send_them(url):
    assert matches("at most 2 images", ask(url, {"messages": [said("a", *[picture()] * 3)]})[1]["error"]["message"])
    system = {**said("a", picture()), "role": "system"}
    assert matches("only the user's", ask(url, {"messages": [system, said("a")]})[1]["error"]["message"])


def test_what_a_web_page_may_send_unasked_is_refused(url):
    assert post(f"{url}/v1/chat/completions", b"{}", kind="text/plain")[0] == 415
    assert post(f"{url}/v1/nothing", b"{}")[0] == 404
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"{url}/v1/chat/completions")


def test_a_failure_inside_is_said_without_its_traceback(url, monkeypatch, capsys):
    monkeypatch.setattr(requests, "completion_prompts", lambda _: 1 / 0)
    status, body = post(f"{url}/v1/completions", {"model": "tiny", "prompt": "a"})
    assert status == 500 and body["error"]["message"] == "the server failed on this request"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_health_and_metrics(url, client):
    client.completions.create(model="tiny", prompt="a", max_tokens=1)
    with urllib.request.urlopen(f"{url}/health") as answer:
        assert json.load(answer) == {"status": "ok"}
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['vlm_mu_generated_tokens_total{model="tiny"}']) >= 1
    assert float(values['vlm_mu_time_to_first_token_seconds_count{model="tiny"}']) >= 1
    assert float(values['vlm_mu_rows_running{model="tiny"}']) == 0


def test_a_full_queue_is_said_and_a_client_that_leaves_frees_its_row(url, engines):
    tiny = engines[0]
    port = int(url.rsplit(":", 1)[1])
    body = {"model": "tiny", "prompt": "a", "max_tokens": 200, "n": 4, "temperature": 1, "logit_bias": {}}
    leaving = []
    for stream in (True, False):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        wish = json.dumps({**body, "stream": stream})
        connection.request("POST", "/v1/completions", wish, {"Content-Type": "application/json"})
        leaving.append(connection)
    assert until(lambda: tiny.live == 3 and tiny.waiting >= 1)
    status, refused = post(f"{url}/v1/completions", {**body, "prompt": ["a"] * 16})
    assert status == 429 and refused["error"]["code"] == "rate_limit_exceeded"
    for connection in leaving:
        connection.close()
    began = time.monotonic()
    assert until(lambda: not tiny.live and not tiny.waiting) and time.monotonic() - began < 15


def test_a_key_is_asked_for(home, engines):
    """With an engine of its own: one belongs to one thread."""
    with running([Engine("tiny", home, rows=3)], keys=["right", "too"]) as url:
        for key, status in (("wrong", 401), ("", 401), ("right", 200), ("too", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
            assert post(f"{url}/v1/completions", body, **headers)[0] == status
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert answer.status == 200


def test_more_open_requests_than_allowed_are_refused(home, engines):
    with running([Engine("tiny", home, rows=3)], limits=ServerLimits(open_requests=0)) as url:
        status, body = ask(url, {})
    assert status == 429 and body["error"]["type"] == "rate_limit_error"


def test_twenty_clients_at_a_time_get_their_own_answers(home, url, engines):
    """Streams and whole answers, images and none, short and long, and every fifth client leaves in the middle."""
    questions = ["feed it", "why?", "what is this?", "where is it now?"]
    shown = [None, None, picture(0), picture(1)]
    want = []
    for question, image in zip(questions, shown, strict=True):
        parts = (question,) if image is None else (ImagePart("image"), question)
        want.append(answer(home, [Turn("user", parts)], [] if image is None else [image])[2])

    async def one(server, i):
        kind = i % len(questions)
        messages = [said(questions[kind], *([] if shown[kind] is None else [shown[kind]]))]
        asked = {"model": "tiny", "messages": messages, "max_tokens": G}
        if i % 2:
            return (await server.chat.completions.create(**asked)).choices[0].message.content == want[kind]
        text = ""
        stream = await server.chat.completions.create(**asked, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if i % 5 == 0 and text:
                await stream.close()
                return want[kind].startswith(text)
        return text == want[kind]

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as server:
            return await asyncio.gather(*(one(server, i) for i in range(40)))

    assert all(asyncio.run(all_of_them()))
    assert until(lambda: not engines[0].live and not engines[0].waiting)
