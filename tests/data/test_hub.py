"""Sets of the hub: fetched once through `datasets`, then read from one Parquet file. A stand-in fetches here."""

import io
import sys
import types

import pytest
from PIL import Image

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.readers import hub
from vlm_mu_jax.errors import InputError, JobError


class Table:
    """What of `datasets.Dataset` is used."""

    def __init__(self, rows):
        self.rows = rows

    def with_format(self, name):
        return self

    def map(self, function, **options):
        return Table([function(row) for row in self.rows])

    def to_parquet(self, path):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self.rows), path)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """The names that were asked for."""
    buffer, names = io.BytesIO(), []
    Image.new("RGB", (8, 6)).save(buffer, format="PNG")
    rows = [{"question": f"what {i} ?", "image": {"bytes": buffer.getvalue(), "path": None}} for i in range(2)]

    def load_dataset(name, config=None, split=None):
        names.append((name, config, split))
        if name == "no/such":
            raise ConnectionError("cannot reach it")
        if split not in (None, "train", "test"):
            raise ValueError(f"Unknown split {split!r}.")
        splits = {"train": Table(rows), "test": Table(rows[:1])}
        return splits if split is None else splits[split]

    fake = types.ModuleType("datasets")
    fake.load_dataset, fake.table = load_dataset, types.SimpleNamespace(embed_table_storage=lambda row: row)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setenv("VLM_MU_CACHE", str(tmp_path / "cache"))
    return names


def test_a_set_is_fetched_once_and_read_with_its_images(fetched, tmp_path):
    for _ in range(2):
        records = readers.read("hub:org/name:train", kind="unsafe")
        assert [r.question for r in records] == ["what 0 ?", "what 1 ?"] and records[0].kind == "unsafe"
        assert records.image_path(records[0]).is_file()
    assert fetched == [("org/name", None, "train")]
    assert records.source == tmp_path / "cache" / "hub" / "org" / "name" / "train.parquet"
    assert len(readers.read("hub:org/name:test")) == 1
    assert len(readers.read("hub:org/name/forget10+tofu:test")) == 1 and fetched[-1] == (
        "org/name",
        "forget10+tofu",
        "test",
    )


def test_what_is_not_there_is_one_line(fetched, monkeypatch):
    with pytest.raises(InputError, match="has the splits train, test; write hub:org/name:train"):
        hub.local("hub:org/name")
    with pytest.raises(InputError, match="hub:org/name:dev: Unknown split 'dev'"):
        hub.local("hub:org/name:dev")
    with pytest.raises(JobError, match="hub:no/such: cannot be fetched .cannot reach it"):
        hub.local("hub:no/such")
    with pytest.raises(InputError, match="write hub:ORG/NAME"):
        hub.local("hub:name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets"):
        hub.local("hub:org/other")
