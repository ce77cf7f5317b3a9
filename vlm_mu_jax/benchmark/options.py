"""The options of every suite of `bin/bench`."""

import dataclasses
from pathlib import Path

SIZE_NAMES = ("tiny", "small", "mid", "7b")
FAMILY_NAMES = ("llava", "qwen2.5-vl")


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """size: of the random model, one of SIZE_NAMES. rows: prompts, or examples of each stream, per run.

    repeats: timed runs of each side. seed: draws weights and inputs. workdir: folder for checkpoints and inputs.
    family: of the random model, one of FAMILY_NAMES; suites that know one family alone measure LLaVA.
    minutes: accelerator starts nothing new after them; 0 is no limit.
    weights: GGUF file of the model of the suites `weights` and `cold`. llama_python: the Python of an environment with
    llama-cpp-python; None leaves llama.cpp out.
    """

    workdir: Path
    size: str = "small"
    rows: int = 8
    repeats: int = 5
    seed: int = 0
    family: str = "llava"
    minutes: float = 0.0
    weights: Path | None = None
    llama_python: Path | None = None
