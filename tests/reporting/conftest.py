"""Report fixtures: run folders with invented numbers."""

import pytest

from tests.reporting import runs_builder


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """(run folders, optional inputs) of one whole story; read only."""
    root = tmp_path_factory.mktemp("story")
    return runs_builder.write_story(root), runs_builder.write_evidence(root / "evidence")
