"""A conversation goes on behind its own turns, with its images where they were shown."""

import io
import json

import numpy as np
import pytest

from vlm_mu_jax.cli import chat_loop
from vlm_mu_jax.data import questions
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.chat import Chat, stream_reply
from vlm_mu_jax.evaluation.answers.one_answer import SamplingOptions
from vlm_mu_jax.model.generate import generate


def test_every_turn_is_answered_behind_all_before_it(model, data_dir, tmp_path):
    first, second = (data_dir / "test" / f"{i}.png" for i in range(2))
    chat = Chat(model, max_new_tokens=6)
    one, two = chat.say("what ?", [first]), chat.say("so", [second])
    turns = (
        Turn("user", (ImagePart("a"), "what ?")),
        Turn("assistant", (one.text,)),
        Turn("user", (ImagePart("b"), "so")),
    )
    ids = model.processor.conversation_ids(turns, [first, second])
    assert two.prompt_token_ids == ids
    pixels = [[model.processor.pixels(path) for path in (first, second)]]
    out = generate(model.params, model.processor.pad([ids], pixels), model.config, max_new_tokens=6)
    assert two.token_ids == np.asarray(out.tokens_BG)[0, : int(out.lengths_B[0])].tolist()
    assert [turn.text for turn in chat.turns] == ["what ?", one.text, "so", two.text]

    # The same conversation as a file, with and without an answer at its end, as rows and as bare messages.
    messages = [{"role": "user", "content": "<image>what ?"}, {"role": "assistant", "content": one.text or "x"}]
    messages += [{"role": "user", "content": "<image>so"}, {"role": "assistant", "content": "old"}]
    row = {"messages": messages, "images": [f"test/{i}.png" for i in range(2)]}
    (data_dir / "talk.json").write_text(json.dumps(row))
    (data_dir / "talk.jsonl").write_text(json.dumps(row | {"messages": messages[:-1]}) + "\n")
    for name in ("talk.json", "talk.jsonl"):
        *_, reply = stream_reply(model, questions.read_conversation(data_dir / name), SamplingOptions(6))
        assert reply == two or not one.text
    chat.reset()
    assert chat.say("what ?", [first]) == one


def test_a_list_of_messages_is_a_conversation_and_several_are_refused(tmp_path):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why ?"}]))
    (record,) = questions.read_conversation(file)
    assert record.system == "Be brief." and record.question == "why ?"
    file.write_text(json.dumps([{"question": "a"}, {"question": "b"}]))
    with pytest.raises(InputError, match="holds 2 conversations"):
        questions.read_conversation(file)


def test_the_loop_obeys_its_commands_and_goes_on_after_an_error(model, data_dir, monkeypatch, capsys):
    chat = Chat(model, max_new_tokens=3)
    image = data_dir / "test" / "0.png"
    lines = ["/system so", f"/image {image}", "/image nowhere.png", "what ?", "no " * 300, "/nonsense", "so", "/reset"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    chat_loop.run(chat)
    said = capsys.readouterr().out
    assert "nowhere.png" in said and "positions" in said and "'/nonsense' is no command" in said
    assert chat.turns == () and chat.system == "so"
    monkeypatch.setattr("sys.stdin", io.StringIO("what ?\nso\n"))
    chat_loop.run(chat, [str(image)])
    assert len(chat.turns) == 4 and chat.turns[0].images and not chat.turns[2].images
