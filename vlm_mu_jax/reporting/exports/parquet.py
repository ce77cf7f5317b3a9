"""answers.parquet and results.parquet, for DuckDB, pandas and the hub's data viewer."""

from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.reporting.exports.rows import answer_rows
from vlm_mu_jax.reporting.inputs.content import Content

ANSWERS, RESULTS = "answers.parquet", "results.parquet"


def write(content: Content, folder: Path) -> list[Path]:
    """Writes a row per answer, and a row per run and metric. Rates are fractions in 0..1, low and high their intervals.

    Raises:
      InputError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError("--parquet needs pyarrow; pip install 'vlm_mu_jax[data]'") from None
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    kinds = {"shot": whole, "turn": whole, "tokens": whole, "probability": real}
    answers = [row for run in content.runs for row in answer_rows(content, run)]
    names = list(answers[0]) if answers else ["run", "set", "id", "label"]
    made = {ANSWERS: (answers, pa.schema([(name, kinds.get(name, text)) for name in names]))}
    fields = [("run", text), ("name", text), ("kind", text), ("seed", whole), ("metric", text)]
    fields += [("value", real), ("k", real), ("n", whole), ("low", real), ("high", real)]
    made[RESULTS] = (_results(content), pa.schema(fields))
    return [_written(folder / name, rows, schema) for name, (rows, schema) in made.items()]


def _results(content: Content) -> list[dict[str, Any]]:
    rows = []
    for run in content.runs:
        head = {"run": run.label, "name": run.name, "kind": run.kind, "seed": run.seed}
        for name, rate in run.metrics.items():
            numbers = {"value": rate.value, "k": rate.k, "n": rate.n, "low": rate.low, "high": rate.high}
            rows.append({**head, "metric": name, **numbers})
    return rows


def _written(path: Path, rows: list[dict[str, Any]], schema: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with complete_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)
    return path
