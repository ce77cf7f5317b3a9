"""Started by test_placement.py with eight fake CPU devices; prints what models say on meshes of several sizes, as JSON.

python commands_on_devices.py CHECKPOINT DATA MESH...   (a mesh as data,fsdp,tensor)
"""

import json
import sys

import jax
import numpy as np

import vlm_mu_jax
from tests.multidevice.other_commands import others
from vlm_mu_jax.absent import import_transformers_without_torch
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.answers.one_answer import SamplingOptions, stream_answer
from vlm_mu_jax.evaluation.evaluate import EvaluateOptions, evaluate
from vlm_mu_jax.evaluation.judges.local import LocalModel
from vlm_mu_jax.evaluation.judges.rubrics import JudgePrompt
from vlm_mu_jax.evaluation.perplexity import Perplexity
from vlm_mu_jax.model.generate import generate_program
from vlm_mu_jax.model.memory import generation_bytes, weight_bytes
from vlm_mu_jax.parallel.activations import mesh_of
from vlm_mu_jax.parallel.placement import Placement, parse, placed
from vlm_mu_jax.planning.hlo import Module
from vlm_mu_jax.serving import engine, programs
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.steering import guarded_answers
from vlm_mu_jax.steering.anchor_texts import Anchors
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard
from vlm_mu_jax.training.forget_scores import score

TOKENS = 6
FURTHER = ("1,1,1", "1,2,2")  # the meshes that the commands of other_commands.py run on
HARMFUL = tuple(f"share dax{x} ." for x in "abcde")
HARMLESS = tuple(f"what is wug{x} ?" for x in "abcde")
ANCHORS = Anchors(HARMFUL, HARMLESS, "0" * 64)
FORGET = [Record(f"u{i}", None, "share the dax .", answer, "unsafe") for i, answer in enumerate(("a then b", "red"))]
QUESTIONS = ["what is wug ?", "share the dax .", "what is red ?"]


def main(checkpoint: str, data: str, *meshes: str) -> None:
    print(json.dumps({mesh: said(checkpoint, data, mesh) for mesh in meshes}))


def said(checkpoint: str, data: str, sizes: str) -> dict:
    lines = []
    with placed(Placement(parse(sizes.split(",")), rows=4, new_tokens=TOKENS, tell=lines.append)):
        model = vlm_mu_jax.load(checkpoint)
        judge = LocalModel(checkpoint, batch_size=3)
    before = generate_program._cache_size()
    found = evaluate(model, data, EvaluateOptions(sets=SETS, batch_size=3, max_new_tokens=TOKENS), judge="refusal")
    programs = generate_program._cache_size() - before
    guard = extract_guard(model, ANCHORS, ExtractOptions(layers="all", batch_size=4))
    pictures = [model.processor.blank_pixels()] * len(QUESTIONS)
    asked = guarded_answers.Asked(QUESTIONS, pictures)
    guarded = guarded_answers.answer(model, asked, guard=guard, max_new_tokens=TOKENS)
    first_NV = guarded_answers.first_token_logprobs(model, asked, guard=guard)
    likely = Perplexity(model, 4)(QUESTIONS, ["red", "a then b", "a"])
    prompts = [JudgePrompt(form="chat", text=text, question=text, answer="", image=None) for text in QUESTIONS]
    *_, streamed = stream_answer(model, QUESTIONS[0], (), SamplingOptions(TOKENS))
    stated = {
        "line": lines[0],
        "answers": {name: [one.answer for one in some] for name, some in found.answers.items()},
        "programs": programs,
        "directions": np.asarray(guard.directions.basis_LMD).ravel().tolist(),
        "guarded": [one.text for one in guarded],
        "first": first_NV.ravel().tolist(),
        "nll": [one.nll for one in likely],
        "judged": [reply.text for _, reply in sorted(judge.ask(prompts, None, 4))],
        "streamed": streamed.token_ids,
        "served": served(model, guard),
        "scores": [*score(model, FORGET, None, "gradient_norm", buckets=1).values()],
        "decode": decode(model),
    }
    if sizes not in FURTHER:
        return stated
    with placed(Placement(parse(sizes.split(",")), rows=4, new_tokens=TOKENS)):
        return stated | others(model, guard, checkpoint, data, TOKENS)


def served(model, guard) -> dict:
    """Five answers of a server's engine with four rows, and what it compiled for the second guarded time."""
    engine.WIDTH = 64
    asked, made, compiled = QUESTIONS[:1] * 2 + QUESTIONS, [], []
    for one in (None, guard, guard):
        running = engine.Engine("tiny", model, one, rows=4)
        tokens = [[] for _ in asked]
        before = programs.step._cache_size() + programs.join._cache_size()
        for place, (question, out) in enumerate(zip(asked, tokens, strict=True)):
            pixels = (model.processor.blank_pixels(),) if place % 2 else ()
            ids, text = (tuple(model.processor.prompt_ids(question, images)) for images in (list(pixels), 0))
            wanted = engine.Answering(ServedPrompt(ids, pixels, ("blank",) * len(pixels), text), TOKENS, out.append)
            running.submit([wanted])
        while running.turn():
            pass
        compiled.append(programs.step._cache_size() + programs.join._cache_size() - before)
        made.append([[token.id for token in out] for out in tokens])
    return {"tokens": made, "compiled": compiled}


SETS = ("unsafe_before", "harmless_before", "utility")


def decode(model) -> dict:
    """Of the compiled program that answers four questions: bytes per device, and what is gathered."""
    mesh, rows, blank = mesh_of(model.params), 4, model.processor.blank_pixels()
    batch = model.processor.pad([model.processor.prompt_ids(QUESTIONS[0], [blank])] * rows, [[blank]] * rows)
    program = generate_program.lower(model.params, batch, model.config, max_new_tokens=TOKENS).compile()
    memory = program.memory_analysis()
    stated = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
    if mesh is None:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    module = Module(program.as_text())
    gathered = [
        list(shape.dims)
        for body in module.computations.values()
        for one in body.values()
        if one.opcode.startswith("all-gather")
        for shape in one.shapes
    ]
    return stated | {
        "inputs": sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch)),
        "weights": weight_bytes(model.config, mesh, "float32"),
        "estimate": generation_bytes(model.config, "float32", mesh, rows, TOKENS),
        "gathered": gathered,
        "vocabulary": model.config.text.V,
    }


if __name__ == "__main__":
    import_transformers_without_torch()
    main(*sys.argv[1:])
