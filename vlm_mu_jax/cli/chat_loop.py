"""The loop of `bin/generate --chat`: lines in, answers out as they come."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vlm_mu_jax.errors import InputError

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.answers.chat import Chat

HELP = """\
/image PATH    show an image with the next question; several times for several images
/system TEXT   another system text, from the next question on; without a text the chat template's own
/reset         forget the conversation
/help          this list
Ctrl-D         end"""


def run(chat: "Chat", images: Sequence[str] = ()) -> None:
    """Answers the lines of standard input until it ends. images: shown with the first question."""
    waiting = [*images]
    for path in waiting:
        _check_image(chat, path)
    for line in _lines():
        if line.startswith("/"):
            _obey(chat, line, waiting)
            continue
        try:
            _answer(chat, line, waiting)
            waiting = []
        except InputError as error:
            print(f"error: {error}", flush=True)


def _lines() -> Iterator[str]:
    """Lines that hold something. On a terminal they are asked for, with the usual editing keys."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401 (gives `input` its editing keys)

    print("/help lists what else can be typed; Ctrl-D ends")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _answer(chat: "Chat", question: str, images: Sequence[str]) -> None:
    from vlm_mu_jax.evaluation.answers.one_answer import pieces

    for piece in pieces(answer.text for answer in chat.stream(question, images)):
        print(piece, end="", flush=True)
    print(flush=True)


def _obey(chat: "Chat", line: str, waiting: list[str]) -> None:
    """A line that begins with a slash."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/image" and rest:
        try:
            _check_image(chat, rest)
            waiting.append(rest)
        except InputError as error:
            print(f"error: {error}", flush=True)
    elif name == "/system":
        chat.system = rest or None
    elif name == "/reset" and not rest:
        chat.reset()
        waiting.clear()
    else:
        print(HELP if name == "/help" else f"error: {line!r} is no command here\n{HELP}", flush=True)


def _check_image(chat: "Chat", path: str) -> None:
    """Raises InputError for a file that is no image, or a model that reads none."""
    chat.model.processor.pixels(path)
