"""What commands say that run in one process alone: guard apply and diagnose, audit --saliency, defences and holds; and
whether rounded weights stay spread. Called by commands_on_devices.py inside `placed`."""

import dataclasses
from pathlib import Path

import jax

import vlm_mu_jax
from vlm_mu_jax.attacks.audit.saliency import record_saliency
from vlm_mu_jax.attacks.words.one_word import WordOptions
from vlm_mu_jax.data import readers
from vlm_mu_jax.evaluation.defences.comparison import DefenceOptions, DefendedModels, compare_defences
from vlm_mu_jax.evaluation.guards.apply_guard import ApplyOptions, apply_guard
from vlm_mu_jax.evaluation.guards.diagnose_guard import DiagnoseOptions, diagnose_guard
from vlm_mu_jax.model.quantize import Scheme, quantize
from vlm_mu_jax.parallel.activations import mesh_of
from vlm_mu_jax.planning import jobs


def others(model, guard, checkpoint: str, data: str, tokens: int) -> dict:
    records = readers.read(Path(data) / "test.json")
    some = [record for kind in ("unsafe", "safe") for record in records.of_kind(kind).items[:2]]
    few = dataclasses.replace(records, items=tuple(some))
    applied = apply_guard(model, guard, few, "refusal", ApplyOptions(max_new_tokens=tokens, batch_size=3))
    diagnosis = diagnose_guard(model, guard, few, "refusal", DiagnoseOptions(max_new_tokens=tokens, batch_size=3))
    options = DefenceOptions(
        ("direct",), ("blank_image",), perplexity=False, max_questions=2, batch_size=3, max_new_tokens=tokens
    )
    stands = vlm_mu_jax.HoldsOptions(
        rows=("as_is", "words", "pruned"),
        questions=2,
        search_questions=1,
        shots=1,
        depth=2,
        words=WordOptions(("what", "list"), shortlist=0, rescored=0, block=4),
        batch_size=3,
        max_new_tokens=tokens,
    )
    held = vlm_mu_jax.holds(model, data, stands, judge="refusal")
    defended = compare_defences(DefendedModels(checkpoint), data, ["vanilla", "ecso"], options, judge="refusal")
    return {
        "applied": [answer.answer for answer in applied.answers],
        "defended": defended.table(),
        "held": held.table(),
        "diagnosed": numbers(diagnosis.content),
        "salient": numbers(record_saliency(model, records, 2)["questions"]),
        "bytes": {job.__name__: compiled_bytes(job, model) for job in (jobs.attack, jobs.guard)},
        "rounded": all(
            jax.tree.leaves(jax.tree.map(_alike, quantize(model.params, Scheme.parse("int4")), model.params))
        ),
    }


def compiled_bytes(job, model) -> dict:
    """What a device holds for the search's block of candidates, or guarded generation, as the compiled program says."""
    mesh = mesh_of(model.params)
    sizes = dict(mesh.shape) if mesh else {"data": 1, "fsdp": 1, "tensor": 1}
    devices = list(mesh.devices.flat) if mesh else jax.devices()[:1]
    planned = job({"mesh": sizes, "batch_size": 4}, model.config, devices)
    memory = planned.jitted.lower(*planned.args, **planned.kwargs).compile().memory_analysis()
    used = model.params["decoder"] if job is jobs.attack else model.params  # candidates follow an encoded image
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(used))
    return {"arguments": memory.argument_size_in_bytes, "weights": held}


def _alike(changed: jax.Array, leaf: jax.Array) -> bool:
    return changed.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def numbers(content) -> list[float]:
    """All floats of nested lists and dicts, in order."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return [number for one in content for number in numbers(one)]
    return [content] if isinstance(content, float) else []
