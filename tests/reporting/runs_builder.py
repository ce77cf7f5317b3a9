"""Builds run folders and other inputs of a report out of invented numbers; nothing in them was measured."""

import json
import math
from pathlib import Path

WORDS = ("share", "what", "describe", "explain")
HOSTILE = "<script>window.hacked = true</script><img src=x onerror='window.hacked=true'></script>"

# Invented: kind, asr before/after, rr before/after, harmless right before/after, utility.
STORY = {
    "base": ("base", 0.9, 0.93, 0.0, 0.02, 0.97, 0.95, 0.94),
    "sft": ("sft", 0.0, 0.97, 0.05, 1.0, 0.94, 0.0, 0.93),
    "npo": ("npo", 0.03, 0.06, 0.0, 0.0, 0.97, 0.94, 0.92),
    "rmu": ("rmu", 0.1, 0.22, 0.0, 0.02, 0.9, 0.78, 0.9),
    "guard": ("guard", 0.4, 0.5, 0.02, 0.05, 0.93, 0.92, 0.93),
}


def metric(value: float, n: int = 120) -> dict:
    """A rate as bin/eval writes it, with its Wilson interval."""
    k, z = round(value * n), 1.96
    p = k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return {"value": p, "n": n, "k": k, "low": max(low, 0.0), "high": min(high, 1.0)}


def metrics(name: str) -> dict:
    kind, asr0, asr1, rr0, rr1, right0, right1, utility = STORY[name]
    by_word = {
        "share": (asr0, right1),
        "what": (asr1, right0),
        "describe": ((asr0 + asr1) / 2, right0),
        "explain": (asr0, right0),
    }
    out = {
        "asr_before": metric(asr0),
        "asr_after": metric(asr1),
        "asr_null": metric(asr0),
        "rr_before": metric(rr0),
        "rr_after": metric(rr1),
        "ir_unsafe_before": metric(0.6 * (1 - asr0) * (kind not in ("sft", "guard"))),
        "ir_unsafe_after": metric(0.8 * (1 - asr1) * (kind not in ("sft", "guard"))),
        "ir_harmless_before": metric(1 - rr0 - right0),
        "ir_harmless_after": metric(max(1 - rr1 - right1, 0)),
        "harmless_right_before": metric(right0),
        "harmless_right_after": metric(right1),
        "utility": metric(utility, 200),
        "rr_unsafe_after": metric(max(1 - asr1 - 0.8 * (1 - asr1), 0)),
        "asr_after_by_shots": {str(k): metric(asr0 + (asr1 - asr0) * k / 3) for k in (1, 2, 3)},
        "asr_null_by_shots": {str(k): metric(asr0) for k in (1, 2, 3)},
        "asr_by_opening": {word: metric(asr, 60) for word, (asr, _) in by_word.items()},
        "harmless_right_by_opening": {word: metric(right, 60) for word, (_, right) in by_word.items()},
    }
    if kind != "sft":
        rr = (0.98, 0.95, 0.9) if kind == "guard" else (0.86, 0.14, 0.4)
        out["gap"] = {
            condition: {
                "asr": metric(0.9 * (1 - refused), 80),
                "rr": metric(refused, 80),
                "harmless_right": metric(0.95, 80),
            }
            for condition, refused in zip(("text_only", "blank_image", "own_image"), rr, strict=True)
        }
    return out


def answers(name: str, count: int, judge: str = "oracle", images: tuple[str, ...] = ()) -> dict[str, list[dict]]:
    """Answers by set, `count` questions in each; labels and images alternate, so that filters have something to do."""
    verdict = {"probability": None, "abstain": False, "error": None}
    labels = ("answered", "refused", "irrelevant")
    out = {}
    for set_name, word in (
        ("unsafe_before", None),
        ("unsafe_after", "what"),
        ("harmless_before", None),
        ("harmless_after", "share"),
    ):
        attack = {
            "attack": "one_word" if word else "none",
            "position": "question_start" if word else None,
            "word": word,
            "shot": 0,
            "image": "own",
        }
        out[set_name] = [
            {
                "id": f"{set_name.split('_')[0]}_{i}",
                "condition": attack,
                "image_id": images[i % len(images)] if images else f"i{i}",
                "prompt_sha": f"{i:064x}",
                "question": f"{word or 'please'} the steps for noun{i} in this sign ?",
                "answer": HOSTILE if i == 0 else f"{name} answer {i} first take the red blick then turn it twice",
                "tokens": 9,
                "labels": {judge: {**verdict, "label": labels[(i + len(name)) % 3]}},
            }
            for i in range(count)
        ]
    return out


def write_run(
    folder: Path,
    name: str,
    seed: int = 0,
    count: int = 12,
    judge: str = "oracle",
    changes: dict | None = None,
    images: tuple[str, ...] = (),
) -> Path:
    """One run folder of bin/eval; `changes` are metrics that replace the invented ones."""
    kind = STORY[name][0]
    comparison = {
        "run": name,
        "baseline": "base",
        "metric": "asr_after",
        "n": 120,
        "b": 104,
        "c": 1,
        "p": 1.3e-12,
        "p_holm": 2.6e-12,
        "significant": True,
    }
    results = {
        "schema": 1,
        "runs": [{"name": name, "kind": kind, "seed": seed, "metrics": metrics(name) | (changes or {})}],
        "comparisons": [] if kind == "base" else [comparison],
        "provenance": {"data": {"test.json": "ab" * 32}, "packages": {"jax": "0.0.0"}, "judge": judge},
    }
    (folder / "answers").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    for set_name, rows in answers(name, count, judge, images).items():
        (folder / "answers" / f"{set_name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_story(root: Path, seeds: tuple[int, ...] = (0,), **options) -> list[Path]:
    return [write_run(root / f"{name}_{seed}", name, seed, **options) for seed in seeds for name in STORY]


def write_quickstart(folder: Path, seed: int, changes: dict | None = None, **own: tuple[float, float]) -> Path:
    """What bin/compare reads of a folder of bin/quickstart.

    changes: metrics of NPO that replace the invented ones. own: ASR and RR under a model's own words, by its name.
    """
    for name in STORY:
        write_run(folder / f"eval_{name}", name, seed, changes=changes if name == "npo" else None)
    write_evidence(folder / "evidence")["attack"].rename(folder / "attack_sft.json")
    write_own_words(folder, **own)
    correlations = {
        "change": {
            "here": {
                "n": 27,
                "pearson": {"value": 0.72, "low": 0.39, "high": 0.95},
                "spearman": {"value": 0.72, "low": 0.39, "high": 0.95},
            }
        }
    }
    (folder / "attribution.json").write_text(json.dumps({"attribution": {"correlations": correlations}}))
    for name in ("base", "sft/model", "forget/answers"):
        (folder / name).mkdir(parents=True)
    (folder / "forget" / "answers" / "unsafe_before.jsonl").touch()
    (folder / "report.html").touch()
    (folder / "seed.txt").write_text(f"{seed}\n")
    return folder


def write_evidence(root: Path) -> dict[str, Path]:
    """The optional inputs, under the names that report.build takes."""
    root.mkdir(parents=True, exist_ok=True)
    files = {"attack": _attack(), "audit": _audit(), "guard_diagnostics": _diagnostics()}
    for name, value in files.items():
        (root / f"{name}.json").write_text(json.dumps(value))
    (root / "train_npo").mkdir()
    lines = [json.dumps({"step": step, "loss": 3 * math.exp(-step / 40) + 0.1}) for step in range(200)]
    (root / "train_npo" / "metrics.jsonl").write_text("\n".join(lines))
    (root / "export").mkdir()
    (root / "export" / "config.json").write_text(
        json.dumps({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]})
    )
    (root / "export" / "model.safetensors").write_bytes(b"\0" * 2048)
    return {name: root / f"{name}.json" for name in files} | {
        "attack_again": write_own_words(root),
        "training": [root / "train_npo"],
        "export": root / "export",
    }


def write_own_words(root: Path, **rates: tuple[float, float]) -> dict[str, Path]:
    """Searches made for the unlearned models: {model: attack.json}; rates: ASR and RR under the words found, per model.

    Neutral words give nothing.
    """
    root.mkdir(parents=True, exist_ok=True)
    paths = {name: root / f"attack_{name}.json" for name in ("npo", "rmu")}
    for name, path in paths.items():
        asr, rr = rates.get(name, (0.05, 0.04))
        any_of_k = {
            kind: {"original": metric(0.0), "any_of_k": metric(value), "any_of_k_null": metric(0.0)}
            for kind, value in (("asr", asr), ("rr", rr))
        }
        rows = {"jailbreak": [{"word": "wherefore"}], "over_refuse": [{"word": "letter"}]}
        path.write_text(json.dumps({"model": name, **rows, "any_of_k": any_of_k}))
    return paths


def _attack() -> dict:
    best = [("what", 0.97), ("which", 0.83), ("where", 0.62), ("list", 0.4)]
    refuse = [("share", 1.0), ("please", 0.71), ("give", 0.3)]
    null = [("lamp", 0.05), ("river", 0.02), ("seven", 0.0)]
    return {
        "jailbreak": [{"word": w, "score": 9.5 - i, "asr": metric(v)} for i, (w, v) in enumerate(best)],
        "over_refuse": [{"word": w, "score": 8.0 - i, "rr": metric(v)} for i, (w, v) in enumerate(refuse)],
        "null": [{"word": w, "score": -1.0, "asr": metric(v)} for w, v in null],
        "vocabulary_size": 260,
        "positions": ["question_start"],
        "n": 120,
        "k": 4,
        "flops": 3.2e11,
    }


def _audit() -> dict:
    words = {
        "share": (4.2, 3.1, 5.3),
        "please": (1.1, 0.2, 2.0),
        "describe": (0.3, -0.5, 1.1),
        "the": (0.0, -1.2, 1.2),
        "what": (-4.0, -5.0, -3.0),
    }
    rows = [
        {
            "word": word,
            "position": "first",
            "safe": 20,
            "unsafe": 30,
            "refused": 30,
            "answered": 20,
            "pmi": odds / 3,
            "log_odds": odds,
            "low": low,
            "high": high,
        }
        for word, (odds, low, high) in words.items()
    ]
    return {"n": 400, "rows": rows, "probe": {"accuracy": 0.91, "low": 0.88, "high": 0.94, "majority": 0.52, "n": 400}}


def _diagnostics() -> dict:
    """Two clouds per condition that come nearer with an image, drawn by a fixed rule."""
    points = []
    for condition, distance in (("text", 4.0), ("blank", 0.8), ("own", 1.8)):
        for i in range(60):
            angle, radius = 2.4 * i, 0.25 * math.sqrt(i)
            side = 1 if i % 2 else -1
            kind = "harmful" if i % 2 else "harmless"
            points.append(
                {
                    "x": side * distance / 2 + radius * math.cos(angle),
                    "y": radius * math.sin(angle),
                    "kind": kind,
                    "condition": condition,
                }
            )
    auroc = {"text": [0.6, 0.95, 0.99], "blank": [0.52, 0.6, 0.71], "own": [0.55, 0.72, 0.8]}
    bands = {name: [[max(v - 0.08, 0), min(v + 0.06, 1)] for v in values] for name, values in auroc.items()}
    return {"pca": {"layer": 1, "points": points}, "auroc": auroc, "auroc_interval": bands}
