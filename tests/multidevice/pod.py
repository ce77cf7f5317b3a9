"""The whole story on a pod: convert, train, evaluate, attack, guard, report, each killed once on the way.

    .venv/bin/python -m tests.multidevice.pod FOLDER [PROCESSES DEVICES]

Every process of the pod (2 by default) has its own fake CPU devices (4). A step starts, is killed with kill -9 in all
processes when it has begun to write (soon after its start where it writes at its end alone), and is started again by
the same command. What is shared out by questions goes on with one process less. docs/launch.md has the commands of a
real pod.
"""

import dataclasses
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests import command_server
from tests.campaigns.world import write_world
from tests.multidevice.start import free_address

_ASKED = "--max_new_tokens=3 --batch_size=4 --max_questions=4"
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of the story.

    command: the words after `bin/`. made: what it leaves. together: whether all processes run it, as one job; else the
    first alone. begun: a pattern of files that show that it has begun to write; "" where it writes at its end alone.
    fewer: whether it goes on with one process less.
    """

    name: str
    command: str
    made: str
    together: bool
    begun: str = ""
    fewer: bool = False


STEPS = (
    Step("convert", "convert_hf --source=hf --out=pod/base", "pod/base/vlm_mu_jax.json", False, "pod/.base.partial/*"),
    Step(
        "train",
        "train --config=tiny_config.py --workdir=pod/npo --config.model.init=pod/base --config.steps=12"
        " --config.batch_size=8 --config.mesh.data=2 --config.mesh.fsdp=4",
        "pod/npo/model/vlm_mu_jax.json",
        True,
        "pod/npo/checkpoints/[1-9]*",
    ),
    Step(
        "evaluate",
        f"eval --checkpoint=pod/npo --data=data --workdir=pod/eval --name=npo --kind=npo {_ASKED}",
        "pod/eval/results.json",
        True,
        "pod/eval/shards/*/answers/*.jsonl",
        fewer=True,
    ),
    Step(
        "attack",
        "attack --checkpoint=pod/npo --data=data --words=list.txt --goal=jailbreak --shortlist=2 --shots=1"
        " --search_questions=2 --verify_questions=2 --max_new_tokens=3 --batch_size=4 --out=pod/attack.json",
        "pod/attack.json",
        True,
        "pod/attack.margins.jsonl",
        fewer=True,
    ),
    Step(
        "guard",
        "guard extract --checkpoint=pod/npo --anchors=data/anchors.json --layers=1 --out=pod/guard",
        "pod/guard/guard.json",
        True,
        fewer=True,
    ),
    Step(
        "guarded",
        f"eval --checkpoint=pod/npo --data=data --guard=pod/guard --workdir=pod/eval_guard --name=guard --kind=guard"
        f" {_ASKED}",
        "pod/eval_guard/results.json",
        True,
        "pod/eval_guard/shards/*/answers/*.jsonl",
        fewer=True,
    ),
    Step(
        "report",
        "report pod/eval pod/eval_guard --attack=pod/attack.json --out=pod/report.html",
        "pod/report.html",
        False,
    ),
)


def run(folder: Path, processes: int, devices: int) -> None:
    """Runs the story in the world `folder`."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    command_server.warm()
    for step in STEPS:
        began = time.monotonic()
        for _ in range(_TRIES):
            if killed(step, folder, processes):
                break
        else:
            raise AssertionError(f"{step.name}: ended before it was killed, {_TRIES} times")
        assert not (folder / step.made).exists(), f"{step.name}: something incomplete looks complete"
        again = started(step, folder, processes - step.fewer)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in again]
        assert not any(codes), f"{step.name}: {codes}: {(folder / 'stderr0').read_text()[-3000:]}"
        assert (folder / step.made).exists(), step.name
        print(f"{step.name}: killed, started again, done in {time.monotonic() - began:.0f} s", flush=True)


def killed(step: Step, folder: Path, processes: int) -> bool:
    """Starts a step and kills it. False where it had ended by then (on a busy machine); what it made is removed."""
    running = started(step, folder, processes)
    until_begun(step, folder, running)
    for process in running:
        os.kill(process, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in running]
    if codes == [-signal.SIGKILL] * len(running):
        return True
    assert not any(code not in (0, -signal.SIGKILL) for code in codes), f"{step.name}: {codes}"
    made = folder.joinpath(*Path(step.made).parts[:2])
    shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    return False


def started(step: Step, folder: Path, processes: int) -> list[int]:
    """Process ids of the step's command, in all processes of the pod or in the first."""
    if not step.together or processes == 1:
        return [command_server.fork(step.command.split(), folder, folder, "0")]
    pod = [f"--coordinator={free_address()}", f"--num_processes={processes}"]
    return [
        command_server.fork([*step.command.split(), *pod, f"--process_id={i}"], folder, folder, str(i))
        for i in range(processes)
    ]


def until_begun(step: Step, folder: Path, running: list[int]) -> None:
    """Waits until the step has begun to write; one that writes at its end alone is killed soon after its start."""
    until = time.monotonic() + (300 if step.begun else 0.05)
    while time.monotonic() < until:
        if step.begun and any(path.is_dir() or path.stat().st_size for path in folder.glob(step.begun)):
            return
        if all(os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) for process in running):
            return  # ended, all of them
        time.sleep(0.001)
    assert not step.begun, f"{step.name}: wrote nothing: {(folder / 'stderr0').read_text()[-3000:]}"


if __name__ == "__main__":
    run(write_world(Path(sys.argv[1]).resolve()), *map(int, sys.argv[2:4] or (2, 4)))
