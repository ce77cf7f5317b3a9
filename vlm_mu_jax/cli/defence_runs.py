"""What bin/defences does with one defence: which model and guard it means, asking, judging, scoring, writing.

A defence is named by its parts, joined by "+": one of evaluation.defences (how the model is asked), `guard` (steering)
and `unlearned` (other weights). No flags here, so that other programs can use it.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

GUARD, UNLEARNED = "guard", "unlearned"


@dataclasses.dataclass(frozen=True)
class Defence:
    """name: as given. wrapper: a name of evaluation.defences. guarded, unlearned: whether it has these parts."""

    name: str
    wrapper: str
    guarded: bool
    unlearned: bool

    @property
    def kind(self) -> str:
        """How results and report call it."""
        if self.unlearned:
            return UNLEARNED
        return "base" if self.wrapper == "vanilla" and not self.guarded else GUARD


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all defences of one command share. perplexity: an evaluation.perplexity.Perplexity, or None."""

    workdir: Path
    data: Path
    judges: Mapping[str, Any]
    judge: Any
    prompts: Any
    batch_size: int
    max_new_tokens: int
    seed: int
    perplexity: Any = None
    progress: Any = None


def parse(names: Iterable[str]) -> list[Defence]:
    """The defences of these names. Raises InputError for an unknown part, two wrappers, or a name given twice."""
    from vlm_mu_jax.evaluation.defences import DEFENCES, VANILLA

    found = []
    for name in names:
        parts = name.split("+")
        known = {*DEFENCES, GUARD, UNLEARNED}
        if unknown := [part for part in parts if part not in known]:
            raise InputError(f"--defences: {', '.join(unknown)} is unknown; use parts of {', '.join(sorted(known))}")
        wrappers = [part for part in parts if part in DEFENCES]
        if len(wrappers) > 1 or len(set(parts)) < len(parts):
            raise InputError(f"--defences={name}: takes each part once and one of {', '.join(DEFENCES)} at most")
        found.append(Defence(name, wrappers[0] if wrappers else VANILLA, GUARD in parts, UNLEARNED in parts))
    if len({d.name for d in found}) < len(found):
        raise InputError("--defences: names a defence twice; give each once")
    return found


def words_of(flag_values: Iterable[str], names: Iterable[str]) -> dict[str, Path]:
    """Defence -> its attack.json, from values FILE (all defences) and NAME=FILE. Raises InputError for another NAME."""
    names, found = list(names), {}
    for value in flag_values:
        name, equals, path = value.partition("=")
        if equals and name in names:
            found[name] = Path(path)
        elif equals and not Path(value).exists():
            raise InputError(f"--attack_words={value}: no defence {name!r} here; use FILE or one of {', '.join(names)}")
        else:
            found = dict.fromkeys(names, Path(value)) | found
    return found


def unseen(suite, guard_folders: Iterable[str | None]):
    """(the suite without requests that the selection of one of these guards has seen, how many requests that were)."""
    from vlm_mu_jax.steering import artifact

    seen: set[str] = set()
    for folder in filter(None, guard_folders):
        seen |= set(artifact.read(folder)[1].get("selection", {}).get("validation_ids", ()))
    sets = {name: [q for q in questions if q.id not in seen] for name, questions in suite.sets.items()}
    left_out = {q.id for questions in suite.sets.values() for q in questions} & seen
    sets = {name: questions for name, questions in sets.items() if questions}
    if not sets:
        raise InputError("--guard: its selection has seen every request of --data; evaluate it on other requests")
    return dataclasses.replace(suite, sets=sets), len(left_out)


def run(model, defence: Defence, guard_folder: str | None, suite, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Asks, judges and scores everything; what WORKDIR/NAME already holds is not asked again.

    Returns (the run's entry of results.json with `defence` facts, {set: evaluation.defence_table.Judged}).
    """
    from vlm_mu_jax.evaluation import defence_table, defences, results, runner
    from vlm_mu_jax.evaluation.instruction_settings import UTILITY

    workdir = plan.workdir / defence.name
    steer, guard = _steering(model, guard_folder)
    runner.open_workdir(workdir, *_facts(model, defence, guard, suite, plan))
    asked, facts = defences.ask_suite(
        model,
        suite,
        workdir,
        defence.wrapper,
        prompts=plan.prompts,
        batch_size=plan.batch_size,
        max_new_tokens=plan.max_new_tokens,
        steer=steer,
        progress=plan.progress,
    )
    answers = runner.judge(asked, suite, workdir, plan.judges, progress=plan.progress)
    judged = {
        name: defence_table.Judged(some, suite.records[name], _scores(plan, some) if name != UTILITY else None)
        for name, some in answers.items()
    }
    entry = {
        "name": defence.name,
        "kind": defence.kind,
        "seed": plan.seed,
        "judge": plan.judge.name,
        "unjudged": results.unjudged(answers, plan.judge.name),
        "judge_error": results.common_error(answers, plan.judge.name),
        "defence": facts,
        "metrics": defence_table.measure(judged, plan.judge.name, plan.judge.exact),
    }
    return entry, judged


def write(plan: Plan, entry: Mapping[str, Any], comparisons: list[dict[str, Any]]) -> None:
    """WORKDIR/NAME/results.json in the form of bin/eval."""
    from vlm_mu_jax.evaluation import runner
    from vlm_mu_jax.evaluation.results import SCHEMA

    workdir = plan.workdir / entry["name"]
    provenance = runner.read_workdir(workdir)[1]
    content = {"schema": SCHEMA, "runs": [dict(entry)], "comparisons": comparisons, "provenance": provenance}
    runner.write_results(workdir, content)


def _steering(model, folder: str | None) -> tuple[Any, dict | None]:
    """What steers every batch and what identifies the guard; (None, None) without one."""
    if folder is None:
        return None, None
    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guarded import steering

    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    return steering(model, load_guard(folder, model)), {"folder": str(folder), "sha256": digest}


def _facts(model, defence: Defence, guard: dict | None, suite, plan: Plan) -> tuple[dict, dict]:
    """(config.json, provenance.json) of the run's folder."""
    from vlm_mu_jax.evaluation import defences, provenance
    from vlm_mu_jax.storage.identity import weights_hash

    weights = weights_hash(model.params)
    settings = {
        "checkpoint": str(model.folder),
        "data": str(plan.data),
        "max_new_tokens": plan.max_new_tokens,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "sets": list(suite.sets),
        "weights_sha256": weights,
        "guard_sha256": guard and guard["sha256"],
        **defences.settings(defence.wrapper, plan.prompts),
    }
    return settings, provenance.collect(model.folder, weights, plan.data, suite.files, guard)


def _scores(plan: Plan, answers) -> list | None:
    if plan.perplexity is None:
        return None
    return plan.perplexity([a.question for a in answers], [a.answer for a in answers], plan.progress)
