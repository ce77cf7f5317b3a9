"""The text of an answer as it grows token by token: what may be shown already, and where a stop text ends it."""

from collections.abc import Callable, Sequence


class AnswerText:
    """Text of one answer. What `take` returned, joined, is always a beginning of the final text.

    Attributes:
      text: the whole answer, once `take` was called with `last` or has met a stop text.
      stopped: whether a stop text was met. The answer ends in front of it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], ends: Sequence[int], stops: Sequence[str]):
        """decode: of the tokens so far. ends: ids that end an answer and are no text."""
        self._decode, self._ends, self._stops = decode, frozenset(ends), stops
        self._ids: list[int] = []
        self._shown = ""
        self.text, self.stopped = "", False

    def add(self, token: int) -> None:
        if token not in self._ends:
            self._ids.append(token)

    def take(self, last: bool = False) -> str:
        """The text that is new since the last call; with `last` all the rest.

        Letters of which bytes are missing, and what may become a stop text, are held back until more is known.
        """
        text = self._decode(self._ids)
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self.stopped, text, last = True, text[: min(places)], True
        if not last:
            text = text.rstrip("\ufffd")
            text = text[: len(text) - max((_begun(text, stop) for stop in self._stops), default=0)]
        else:
            self.text = text
        if not text.startswith(self._shown):  # a tokenizer may change text that more tokens follow
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
