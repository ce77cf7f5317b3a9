"""Each campaign's short form holds; the long forms are commands of this folder, with figures in docs/reliability.md."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("campaigns")
    done = subprocess.run([sys.executable, "-m", "tests.campaigns.short", str(out)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads((out / "short.json").read_text())


@pytest.mark.parametrize("name", ["servers", "hostile", "kills", "signals", "report"])
def test_the_short_form_holds(found, name):
    if name not in found:
        pytest.skip("no chromium with chromedriver on this machine")
    assert found[name] == []
