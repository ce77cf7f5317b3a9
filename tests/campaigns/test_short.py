"""Each campaign's short form holds; the long forms are commands of this folder, with figures in docs/reliability.md."""

import json

import pytest

from tests.command import run_command


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("campaigns")
    done = run_command("tests.campaigns.short", out)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "short.json").read_text())


@pytest.mark.parametrize("name", ["servers", "hostile", "kills", "signals", "report"])
def test_the_short_form_holds(found, name):
    if name not in found:
        pytest.skip("no chromium with chromedriver on this machine")
    assert found[name] == []
