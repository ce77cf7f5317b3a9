"""A streamed answer is the whole one in pieces, and ends where a stop text begins."""

import hypothesis
import hypothesis.strategies as st

from vlm_mu_jax.serving.answer_text import AnswerText

END = 256


def decode(ids):
    """Bytes, as byte-level tokenizers have them."""
    return bytes(ids).decode("utf-8", "replace").strip()


def streamed(data, stops):
    """(text, pieces, tokens read) of an answer that is read token by token until it stops."""
    text, pieces, read = AnswerText(decode, (END,), stops), [], 0
    for token in [*data, END]:
        text.add(token)
        read += 1
        pieces.append(text.take(last=token == END))
        if text.stopped:
            break
    return text, pieces, read


@hypothesis.given(st.text("ab \nö€", max_size=12), st.lists(st.text("ab\nö", min_size=1, max_size=3), max_size=2))
def test_pieces_joined_are_the_text_up_to_the_stop_that_is_complete_first(words, stops):
    data = words.encode()
    text, pieces, _ = streamed(data, stops)
    beginnings = [decode(data[:n]) for n in range(len(data) + 1)]
    stopped = next((one for one in beginnings if any(stop in one for stop in stops)), None)
    want = words.strip() if stopped is None else stopped[: min(stopped.index(s) for s in stops if s in stopped)]
    assert "".join(pieces) == text.text == want
    assert text.stopped == (stopped is not None)


def test_a_letter_waits_for_its_bytes_and_a_stop_ends_the_answer_at_once():
    text, pieces, read = streamed("€ab STOP more".encode(), ["STOP"])
    assert pieces[:4] == ["", "", "€", "a"] and text.text == "€ab "
    assert read == len("€ab STOP".encode())


def test_what_may_become_a_stop_is_held_back_and_shown_when_it_does_not():
    _, pieces, _ = streamed(b"a##b", ["###"])
    assert pieces == ["a", "", "", "##b", ""]
