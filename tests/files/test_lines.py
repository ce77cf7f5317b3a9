"""Files that grow by lines, and what a kill leaves of the last one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.files import lines


@given(st.lists(st.binary(max_size=5).filter(lambda x: b"\n" not in x)), st.binary(max_size=5))
def test_complete_lines_are_those_that_ended(ended, rest):
    rest = rest.replace(b"\n", b"")
    content = b"".join(line + b"\n" for line in ended)
    assert lines.whole(content + rest) == content


@pytest.mark.parametrize("before, kept", [(None, ""), ("", ""), ("x\n", "x\n"), ("cu", "cu\n")])
def test_lines_are_added_behind_what_is_there(before, kept, tmp_path):
    path = tmp_path / "new" / "file.jsonl"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    lines.append(path, ["a", "b"])
    assert path.read_text() == kept + "a\nb\n"
