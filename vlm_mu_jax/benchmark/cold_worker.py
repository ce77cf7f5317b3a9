"""A fresh process up to its first tokens, for bin/bench cold: `python -m vlm_mu_jax.benchmark.cold_worker FOLDER`.

It prints one JSON object: the clock when everything was imported, when the model was loaded and when the first tokens
were there, and the seconds that XLA compiled or read its cache in between.
"""

import json
import sys
import time


def main(folder: str) -> None:
    import jax

    from vlm_mu_jax.absent import import_transformers_without_torch

    import_transformers_without_torch()
    from vlm_mu_jax.model.generate import stream
    from vlm_mu_jax.storage import model_folder

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
    )
    clock = {"imported": time.time()}
    model = model_folder.load(folder)
    clock["loaded"] = time.time()
    batch = model.processor.pad([model.processor.prompt_ids("What is a river?", 0)])
    first = next(stream(model.params, batch, model.config, max_new_tokens=64))
    clock["first"] = time.time()
    print(json.dumps(clock | {"compiled": sum(compiled), "tokens": first.tokens_BG[0, :8].tolist()}))


if __name__ == "__main__":
    main(sys.argv[1])
