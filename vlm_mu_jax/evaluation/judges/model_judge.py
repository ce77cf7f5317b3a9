"""A judge that asks a model: a rubric, somebody who answers it (our decoder or a server), and a cache."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.judges.cache import JudgeCache, content_key
from vlm_mu_jax.evaluation.judges.case import Case
from vlm_mu_jax.evaluation.judges.label import Label
from vlm_mu_jax.evaluation.judges.rubrics import JudgePrompt, Reply, Rubric
from vlm_mu_jax.progress import Progress


class Backend(Protocol):
    """Who is asked: our own decoder or a server.

    name: shown with the judge. identity: changes whenever the replies could change. sees_images: whether the question's
    image can be shown.
    """

    name: str
    identity: str
    sees_images: bool

    def ask(
        self, prompts: Sequence[JudgePrompt], words: tuple[str, str] | None, max_tokens: int
    ) -> Iterator[tuple[int, Reply]]:
        """(index of the prompt, its reply), in any order, as they come. words: see `Rubric`; None = a written reply."""
        ...

    def cost(self) -> dict:
        """What was used so far, by name."""
        ...


class ModelJudge:
    """Judges by a model's reply; `name` is RUBRIC:MODEL.

    A missing reply, or one that cannot be read, is an error. Errors are counted, and no other judge steps in. Neither
    is kept in the cache, so that the next run asks again.
    """

    exact = False

    def __init__(self, rubric: Rubric, backend: Backend, cache: JudgeCache):
        self.name = f"{rubric.name}:{backend.name}"
        self._rubric, self.backend, self._cache = rubric, backend, cache

    def __call__(self, question: str, answer: str, record: Record) -> Label:
        return self.many([Case(question, answer, record)])[0]

    def many(self, cases: Sequence[Case], progress: Progress | None = None) -> list[Label]:
        """The labels of all cases, in their order; only what the cache does not know is asked."""
        labels: list[Label | None] = [self._rubric.settled(case) for case in cases]
        prompts = {i: self._rubric.prompt(c, self.backend.sees_images) for i, c in enumerate(cases) if not labels[i]}
        keys = {i: self._key(cases[i], prompt) for i, prompt in prompts.items()}
        first = {}  # key -> the first case that has it, for those to be asked
        for i, key in keys.items():
            if not self._is_readable(cases[i], self._kept(key)):
                first.setdefault(key, i)
        asked = {}
        for key, reply in self._replies({key: prompts[i] for key, i in first.items()}, progress):
            asked[key] = reply
            if self._is_readable(cases[first[key]], reply):  # else the next run asks again
                self._cache.put(key, {k: v for k, v in dataclasses.asdict(reply).items() if v is not None})
        for i, key in keys.items():
            labels[i] = self._rubric.label(cases[i], asked.get(key) or self._kept(key))
        return labels

    def cost(self) -> dict:
        """What the judging used: see `Backend.cost`."""
        return self.backend.cost()

    def _kept(self, key: str) -> Reply | None:
        known = self._cache.get(key)
        try:
            return None if known is None else msgspec.convert(known, Reply)
        except msgspec.ValidationError:  # of another version: asked again
            return None

    def _is_readable(self, case: Case, reply: Reply | None) -> bool:
        return reply is not None and self._rubric.label(case, reply).error is None

    def _replies(self, missing: dict[str, JudgePrompt], progress: Progress | None) -> Iterator[tuple[str, Reply]]:
        keys, words = list(missing), None if self._rubric.written else self._rubric.words
        found: Iterable = self.backend.ask(list(missing.values()), words, self._rubric.max_tokens)
        if progress and keys:
            found = progress(found, f"judge {self.name}", len(keys))
        for index, reply in found:
            yield keys[index], reply

    def _key(self, case: Case, prompt: JudgePrompt) -> str:
        r = self._rubric
        image = (case.image_id or str(prompt.image)) if prompt.image is not None else None
        wording = (r.name, r.form, r.words, r.template, r.max_tokens)
        return content_key(wording, self.backend.identity, prompt.text, case.question, case.answer, image)
