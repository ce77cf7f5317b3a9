"""Run by test_shared_work.py, and started by it as several processes; process 0 writes what they found, as JSON.

python work_of_processes.py OUT CHECKPOINT DATA [ADDRESS PROCESSES PROCESS]
"""

import dataclasses
import json
import sys
from pathlib import Path
from unittest import mock

import jax

from tests.multidevice.commands_on_devices import ANCHORS
from vlm_mu_jax.absent import import_transformers_without_torch
from vlm_mu_jax.attacks.attack import attack
from vlm_mu_jax.attacks.methods.pgd import PixelOptions
from vlm_mu_jax.attacks.options import AttackOptions
from vlm_mu_jax.attacks.words.one_word import WordOptions
from vlm_mu_jax.data import questions, readers
from vlm_mu_jax.evaluation.answers import record_answers
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.guards.select_guard import SelectOptions, select_guard
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.meeting import meet
from vlm_mu_jax.parallel.placement import Placement, placed
from vlm_mu_jax.steering import extraction, hidden_states
from vlm_mu_jax.steering.extraction import ExtractOptions
from vlm_mu_jax.steering.selection import Bounds
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.training.evaluation_questions import QuestionOptions
from vlm_mu_jax.training.relearning import RelearnOptions, relearn


def main(out: str, checkpoint: str, data: str, address: str | None = None, *job: str) -> None:
    distributed.join(address, *map(int, job))
    model, folder = model_folder.load(checkpoint), Path(out).with_suffix("")
    with mock.patch.object(hidden_states, "batch_states", side_effect=hidden_states.batch_states) as batches:
        found = guards(model, data)
    found["batches"] = meet("batches", batches.call_count)
    attack(model, data, ATTACK, judge="oracle", out=folder / "attack.json", name="tiny")
    for method in ("pgd", "typographic"):
        pictures = dataclasses.replace(ATTACK, method=method, goals=("jailbreak",), verify_questions=2)
        attack(model, data, pictures, judge="oracle", out=folder / f"{method}.json", name="tiny")
    records = questions.read(Path(data) / "test.json")
    record_answers.answer_file(model, records, folder / "generated.jsonl", options=AnswerOptions(4, 4))
    found["relearned"] = relearned(checkpoint, Path(data))
    if distributed.first():
        Path(out).write_text(json.dumps(found))
    meet("end")


ATTACK = AttackOptions(
    shots=1,
    search_questions=2,
    batch_size=2,
    max_new_tokens=3,
    pixels=PixelOptions(steps=2),
    words=WordOptions(("what", "list", "some", "any", "give"), shortlist=2, rescored=0, block=4),
)


def guards(model, data: str) -> dict:
    guard = extraction.extract_guard(model, ANCHORS, ExtractOptions(layers="all", batch_size=2, blank=None))
    options = SelectOptions(
        strengths=(1.0, 4.0),
        layer_sets=("all",),
        scopes=("last",),
        gates=("midpoint",),
        bounds=Bounds(1.0, 1.0, 1e9, 0.0),
        validation_share=1.0,
        max_new_tokens=3,
        batch_size=2,
    )
    chosen = select_guard(model, guard, data, "oracle", options)
    return {
        "directions": guard.directions.basis_LMD.ravel().tolist(),
        "selection": chosen.as_json(),
        "options": json.loads(json.dumps(dataclasses.asdict(chosen.guard.options))),
    }


def relearned(checkpoint: str, data: Path) -> dict:
    records = readers.read(data / "test.json").of_kind("safe")
    asked = QuestionOptions(str(data), "test", questions=2, max_new_tokens=3, batch_size=4)
    with placed(Placement(rows=4, training=8.0)):
        model = model_folder.load(checkpoint)
    return relearn(model, records, RelearnOptions(asked, steps=2, every=2, batch_size=4)).to_dict() | {
        "devices": len(jax.tree.leaves(model.params)[0].sharding.device_set)
    }


if __name__ == "__main__":
    import_transformers_without_torch()
    main(*sys.argv[1:])
