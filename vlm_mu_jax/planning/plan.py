"""The plan of one job: whether it fits its target, what bounds its speed, and what to change when it does not fit."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.parallel.mesh import BATCH_AXES
from vlm_mu_jax.planning.compilation import DoesNotFit, Program, bytes_per_chip, compile_ahead, extrapolated, roofline
from vlm_mu_jax.planning.jobs import JOBS, PlannedJob
from vlm_mu_jax.planning.topology import PlanTarget, compiler

GIB = 2**30
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is to be planned. tell: gets a line before every compilation."""

    what: str
    settings: dict[str, Any]
    cfg: ModelConfig
    target: PlanTarget
    tell: Tell


def plan(
    what: str, settings: dict[str, Any], cfg: ModelConfig, target: PlanTarget, advise: bool = True, tell: Tell = print
) -> dict[str, Any]:
    """Plans one job: compiles it for the target and reads memory, work and collectives from the compiled program.

    Args:
      what: a name in `jobs.JOBS` ("train", "decode", "attack", "guard").
      settings: a checked config (`training.settings.checked`).
      cfg: the model, from `jobs.model_config(settings)`.
      target: the chips, from `topology.target`.
      advise: when the job does not fit, compile gentler settings until one fits.
      tell: gets a line before every compilation.

    Returns:
      A JSON object: "fits", "peak_bytes_per_chip", "hbm_bytes", "flops_per_step" and "basis" (how it was found out)
      always; "roofline_seconds", "bound", "mfu_at_roofline", "collectives" and more where a program was compiled;
      "tokens_per_second" (all chips, at the roofline) and "collectives_per_turn" of programs that make or score tokens;
      "advice" where it does not fit and `advise` is set.

    Raises:
      InputError: mesh, batch sizes or selection do not fit the settings.
    """
    job = JOBS[what](settings, cfg, target.devices)
    asked = _Asked(what, settings, cfg, target, tell)
    basis, program, problem = _compiled(asked, job)
    needed = program.peak if program else problem.needed
    found = {
        "what": what,
        "topology": target.topology,
        "chips": len(target.devices),
        "chip": target.chip.name,
        "basis": basis,
        "about": list(job.about),
        "unit": job.unit,
        "peak_bytes_per_chip": needed,
        "hbm_bytes": target.memory,
        "fits": program is not None and needed <= target.memory,
        "flops_per_step": job.flops,
        "argument_bytes": bytes_per_chip(job.args) if program is None else program.argument,
    }
    if program:
        found |= _details(program, job, target)
    if not found["fits"] and advise:
        found["advice"] = _advice(asked, job)
    return found


def _compiled(asked: _Asked, job: PlannedJob) -> tuple[str, Program | None, DoesNotFit | None]:
    """How it was found out, the program, and the compiler's complaint if there is none."""
    target, cfg, tell = asked.target, asked.cfg, asked.tell
    basis = f"compiled with {compiler()}"
    if target.compiled_for:
        basis = f"estimated, not compiled for this GPU: the same program for {target.compiled_for}, with {compiler()}"
    arguments = bytes_per_chip(job.args)
    if arguments > max(target.memory, _limit(target)):
        return "from shapes: arguments alone are too large", None, DoesNotFit("arguments", arguments)
    if target.memory <= _limit(target) or arguments < _limit(target) / 2:
        tell(f"compiling for {target.compiled_for or target.topology} (a minute or more for a 7B model)")
        try:
            return basis, compile_ahead(job.jitted, job.args, job.kwargs), None
        except DoesNotFit as error:
            if target.memory <= _limit(target):
                return basis, None, error
    depths = _depths(asked.settings, cfg)
    programs = []
    for depth in depths:  # the stand-in's compiler may refuse the whole model for want of memory, but not a few layers
        tell(f"compiling {depth} of {cfg.text.L} decoder layers for {target.compiled_for}")
        small = JOBS[asked.what](asked.settings, cfg.with_text(L=depth), target.devices)
        programs.append(compile_ahead(small.jitted, small.args, small.kwargs))
    basis += f", at {depths[0]} and {depths[1]} decoder layers, extrapolated to {cfg.text.L}"
    return basis, extrapolated(*programs, depths, cfg.text.L), None


def _limit(target: PlanTarget) -> float:
    """Memory that the compiler itself allows."""
    from vlm_mu_jax.parallel.chips import CHIPS

    return CHIPS["v5p"].memory if target.compiled_for else target.chip.memory


def _depths(settings: dict[str, Any], cfg: ModelConfig) -> tuple[int, int]:
    """Two numbers of layers that hold every layer the settings name."""
    used = [layer for layers in settings["train"]["slices"].values() for layer in layers]
    used += [v for k, v in settings["objective"].items() if k.endswith("layer") and v is not None]
    first = max([1, *used]) + 1
    if first + 2 > cfg.text.L:
        raise InputError(f"{cfg.text.L} decoder layers are too few to extrapolate from the {first} in use")
    return first, first + 2


def _details(program: Program, job: PlannedJob, target: PlanTarget) -> dict[str, Any]:
    bounds, chips = roofline(program.work, target.chip), len(target.devices)
    kinds = sorted(program.work.collectives.items())
    found = {
        "temporary_bytes": program.temporary,
        "output_bytes": program.output,
        "aliased_bytes": program.aliased,
        "executed_flops_per_chip": program.work.flops,
        "hbm_traffic_bytes_per_chip": program.work.traffic,
        "collectives": {kind: dataclasses.asdict(one) for kind, one in kinds},
        "kernels": program.work.kernels,
        "roofline": {"compute": bounds.compute, "memory": bounds.memory, "links": bounds.links},
        "roofline_seconds": bounds.seconds,
        "bound": bounds.bound,
        "mfu_at_roofline": job.flops / (chips * target.chip.flops * bounds.seconds),
        "compile_seconds": program.seconds,
    }
    if job.turns:
        found["tokens_per_second"] = job.tokens / bounds.seconds
        found["collectives_per_turn"] = {
            kind: {"count": one.count / job.turns, "bytes": one.bytes / job.turns} for kind, one in kinds
        }
    return found


def _advice(asked: _Asked, job: PlannedJob) -> str:
    """What to change. Arguments too large: only a mesh or a selection helps. Else gentler settings are compiled."""
    settings, target = asked.settings, asked.target
    arguments = bytes_per_chip(job.args)
    if arguments > 0.9 * target.memory:
        chips = len(target.devices) * math.ceil(arguments / (0.6 * target.memory))
        spread = settings["mesh"]["fsdp"] * settings["mesh"]["tensor"]
        if 0 < spread < len(target.devices):
            return "weights and optimizer state are copied over mesh.data; set mesh.data=1 and mesh.fsdp=-1"
        return (
            f"weights and optimizer state alone take {arguments / GIB:.1f} GiB per chip; use about {chips} chips with "
            "mesh.fsdp=-1, or train less (train.lora_rank=16 with train.select=())"
        )
    if asked.what != "train":
        return "set a smaller batch_size, or split the model with mesh.tensor"
    for change, changed in _gentler(settings, job):
        asked.tell(f"does not fit; trying {change}")
        now = _with_remat(asked.cfg, changed)
        found = plan(asked.what, changed, now, target, advise=False, tell=asked.tell)
        if found["fits"]:
            return f"set {change}: then {found['peak_bytes_per_chip'] / GIB:.1f} GiB per chip"
    return "set a smaller batch_size or data.max_length, or use more chips; remat and accumulation are not enough"


def _with_remat(cfg: ModelConfig, settings: dict[str, Any]) -> ModelConfig:
    return cfg.with_text(remat=settings["model"]["remat"])


def _gentler(settings: dict[str, Any], job: PlannedJob) -> list[tuple[str, dict[str, Any]]]:
    """Settings that need less memory and compute the same, gentlest first: (what changed, settings)."""
    tries: list[tuple[str, dict[str, Any]]] = []
    remat = copy.deepcopy(settings)
    if settings["model"]["remat"] != "full":
        remat["model"]["remat"] = "full"
        tries.append(("model.remat=full", remat))
    mesh = job.args[2]["retain" if "retain" in job.args[2] else next(iter(job.args[2]))].batch.tokens_BT.sharding.mesh
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    smallest = min(settings["batch_size"], settings["forget_batch_size"] or settings["batch_size"])
    most = smallest // shards
    if most > settings["accumulate"]:
        micro = copy.deepcopy(remat)
        micro["accumulate"] = most
        names = [name for name, _ in tries] + [f"accumulate={most}"]
        tries.append((" and ".join(names), micro))
    return tries
