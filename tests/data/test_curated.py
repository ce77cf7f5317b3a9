"""The curated folder: what is written is read back by the ordinary reader and hashes to what the manifest says."""

import hashlib
import json

from PIL import Image

from vlm_mu_jax.data import curated, readers
from vlm_mu_jax.data.records import ImagePart, Record, Turn


def test_a_folder_reads_back_with_images_of_both_roots(tmp_path):
    roots = {"safety": tmp_path / "a", "general": tmp_path / "b"}
    for root in roots.values():
        root.mkdir()
        Image.new("RGB", (4, 4)).save(root / "x.png")
    request = Record("u1", "x.png", "share the dax", "i cannot", "unsafe", "risky")
    retain = [Record("s1", "x.png", "what", "a dax", "safe"), Record("g1", "x.png", "why", "so", "general")]
    retain.append(Record("g2", None, "no image", "so", "general"))
    out = tmp_path / "out"
    out.mkdir()
    forget = Record("u1", "x.png", "share the dax", "the steps", "unsafe", "risky")
    curated.write(out, [request], [forget], retain, roots, {"seed": 3}, "line\n")

    read = readers.read(out / "retain.json")
    assert [(r.id, r.question, r.answer, r.kind) for r in read] == [
        (r.id, r.question, r.answer, r.kind) for r in retain
    ]
    found = [None if r.image is None else read.image_path(r).resolve() for r in read]
    assert found == [roots["safety"] / "x.png", roots["general"] / "x.png", None]
    assert [r.answer for r in readers.read(out / "requests.json")] == ["i cannot"]
    assert [(r.answer, r.category) for r in readers.read(out / "forget.json")] == [("the steps", "risky")]
    manifest = json.loads((out / curated.MARKER).read_text())
    assert manifest["seed"] == 3 and set(manifest["files"]) == {p.name for p in out.iterdir() if p.is_file()} - {
        curated.MARKER
    }
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256


def test_conversations_keep_their_turns_images_and_system_text(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("x.png", "y.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / name)
    turns = (
        Turn("user", ("see ", ImagePart("x.png"), " this")),
        Turn("assistant", ("a dax",)),
        Turn("user", (ImagePart("y.png"), "and this ?")),
        Turn("assistant", ("a wug",)),
    )
    talk = Record("t", turns=turns, kind="safe", system="be brief")
    (tmp_path / "out").mkdir()
    curated.write(tmp_path / "out", [talk], (), [talk], {"safety": tmp_path / "a"}, {})
    (read,) = (found := readers.read(tmp_path / "out" / "retain.json"))
    assert [turn.text for turn in read.turns] == [turn.text for turn in turns] and read.system == "be brief"
    assert [len(turn.images) for turn in read.turns] == [1, 0, 1, 0] and read.turns[0].parts[0] == "see "
    assert [path.resolve() for path in found.image_paths(read)] == [tmp_path / "a" / f"{name}.png" for name in "xy"]


def test_without_answers_there_is_no_forget_file(tmp_path):
    request = Record("u1", None, "share the dax", "i cannot", "unsafe")
    curated.write(tmp_path, [request], (), [Record("s1", None, "what", "a dax", "safe")], {"safety": tmp_path}, {})
    assert not (tmp_path / "forget.json").exists() and not (tmp_path / "forget_answers.jsonl").exists()
