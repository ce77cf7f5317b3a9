"""Speed of ours and of PyTorch transformers on the same random LLaVA, in float32, on the device both have.

Suites: `generate` (ragged: prompts of mixed lengths; shared_image: several questions on one image) and `unlearn` (npo,
rmu: one optimizer step, written for the peer as public unlearning code does it). Both sides warm up, then run in turn;
the median counts. A row is only printed when both sides did the same work: equal tokens, or equal first loss.

Example:
  bin/bench generate --size=small --json
"""

from absl import flags

from vlm_mu_jax.cli import command

SUITE_NAMES = ("generate", "unlearn")
_JSON = flags.DEFINE_bool("json", False, "print one JSON object instead of a table")
_SIZE = flags.DEFINE_enum("size", "small", ["tiny", "small"], "size of the random model; tiny only shows that it runs")
_ROWS = flags.DEFINE_integer("rows", 8, "prompts, or forget and retain examples each, per run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each side", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "draws weights and inputs")


def main(argv: list[str]) -> None:
    import json
    import tempfile

    from vlm_mu_jax.cli.bench_peer import Peer

    with Peer() as peer, tempfile.TemporaryDirectory() as folder:
        result = measure(argv[1], peer, folder)
    print(json.dumps(result) if _JSON.value else table(result))


def measure(suite: str, peer, folder: str) -> dict:
    """The suite's result: device, versions, and a row per job with ours, the peer and their ratio (above 1: ours)."""
    import importlib.metadata
    import os

    import jax
    import numpy as np

    from vlm_mu_jax.cli import bench_jobs, progress

    text, vision = bench_jobs.SIZES[_SIZE.value]
    peer.ask("make", folder=folder, text=text, vision=vision, seed=_SEED.value)
    params, cfg = bench_jobs.load(folder)
    arrays = bench_jobs.inputs(cfg, _ROWS.value, _SEED.value)
    file = os.path.join(folder, "inputs.npz")
    np.savez(file, **arrays)
    rows = []
    for row in bench_jobs.SUITES[suite](params, cfg, arrays):
        about = peer.ask("load", folder=folder, arrays=file)
        rows.append(compare(row, peer, progress.bar(range(_REPEATS.value), f"{suite}: {row.name}")))
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")} | about["versions"]
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{device.device_kind} ({device.platform}), {cores} CPU cores; peer on {about['device']}"
    return {"suite": suite, "device": where, "versions": versions, "rows": rows}


def compare(row, peer, repeats) -> dict:
    """Warms both sides up, checks that they agree, and times them in turn."""
    import statistics
    import time

    from vlm_mu_jax.errors import JobError

    job, arguments = row.peer
    if not row.agrees(row.ours(), peer.ask(job, **arguments)):
        raise JobError(f"{row.name}: ours and the peer did not compute the same; their times cannot be compared")
    ours, theirs = [], []
    for _ in repeats:
        start = time.perf_counter()
        row.ours()
        ours.append(time.perf_counter() - start)
        theirs.append(peer.ask(job, **arguments)["seconds"])
    mine, other = row.count / statistics.median(ours), row.count / statistics.median(theirs)
    return {"name": row.name, "ours": mine, "peer": other, "unit": row.unit, "ratio": mine / other, "floor": None}


def table(result: dict) -> str:
    head = f"{result['suite']} on {result['device']}"
    lines = [
        f"{row['name']:<14}{row['ours']:>12.1f}{row['peer']:>12.1f}  {row['unit']:<12}{row['ratio']:>7.2f}"
        for row in result["rows"]
    ]
    return "\n".join([head, f"{'row':<14}{'ours':>12}{'peer':>12}  {'unit':<12}{'ratio':>7}", *lines])


if __name__ == "__main__":
    command.run(main, __doc__, actions=SUITE_NAMES)
