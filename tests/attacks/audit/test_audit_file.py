"""What audit.json holds beside the audit."""

import json

from vlm_mu_jax.attacks.audit import audit_file
from vlm_mu_jax.attacks.audit.audit import AuditOptions, audit
from vlm_mu_jax.data import questions


def test_the_audit_its_data_and_the_words_in_a_model(tmp_path):
    file, attack = tmp_path / "data.json", tmp_path / "attack.json"
    rows = [{"question": f"{word} the dax", "kind": kind} for word, kind in (("share", "unsafe"), ("what", "safe"))]
    file.write_text(json.dumps(rows * 4))
    margins = {"original_margin": 1.0, "margins": {"share": 3.0, "what": 0.0}}
    found = {"positions": ["question_start"], "by_position": {"question_start": {"search": {"jailbreak": margins}}}}
    attack.write_text(json.dumps(found))
    records, options = questions.read(file), AuditOptions("unsafe")
    alone = audit_file.content(records, file, options)
    assert alone == audit(records, options).to_dict() | {
        "data": {"file": "data.json", "sha256": records.sha256, "miniature": False}
    }
    (tmp_path / "oracle.json").write_text("{}")
    both = audit_file.content(records, file, options, attacks=[attack, attack])
    assert both["data"]["miniature"] and both["rows"] == alone["rows"]
    points = {point["word"]: point for point in both["attribution"]["points"]}
    assert points["share"]["change"] == 2.0 and points["what"]["removed"] == 0.0 and len(points) == 2
