"""The peer of bin/bench weights for one row at a time: llama.cpp through llama-cpp-python.

    {"do": "load", "file": GGUF, "threads"}    the model
    {"do": "generate", "ids", "tokens"}        `tokens` greedy tokens behind the prompt, no end token

Runs in an environment of its own, which needs llama-cpp-python alone. JSON lines on stdin ask, JSON lines on stdout
answer, each with "seconds".
"""

import json
import os
import sys
import time

import llama_cpp


class Llama:
    """Holds the model between jobs."""

    def load(self, file: str, threads: int) -> dict:
        self.model = llama_cpp.Llama(file, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
        return {"versions": {"llama-cpp-python": llama_cpp.__version__}, "device": "cpu"}

    def generate(self, ids: list[int], tokens: int) -> dict:
        self.model.reset()  # otherwise the prompt's states of the run before are reused
        found = []
        for token in self.model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0, reset=False):
            found.append(int(token))
            if len(found) == tokens:
                return {"tokens": [found]}
        return {"tokens": [found]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp itself prints
    peer = Llama()
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        answer = getattr(peer, job.pop("do"))(**job)
        print(json.dumps({"seconds": time.perf_counter() - start, **answer}), file=answers, flush=True)


if __name__ == "__main__":
    main()
