"""A job: the columns and the first rows of a Parquet or Arrow file, as lines of JSON.

    python -m leviathan_train.jobs.columns FILE

The first line is `{"columns": [...]}`; each further one is a row.
"""

from __future__ import annotations

import json
import sys
from typing import Any

ROWS = 64
"""Rows that are told."""


def main(name: str) -> None:
    """Print what the file holds; fails with the library's own message if it cannot be read."""
    columns, rows = _parquet(name) if _is_parquet(name) else _arrow(name)
    print(json.dumps({"columns": columns}))
    for row in rows:
        print(json.dumps(row, default=str))


def _is_parquet(name: str) -> bool:
    with open(name, "rb") as stream:
        return stream.read(4) == b"PAR1" or name.endswith(".parquet")


def _parquet(name: str) -> tuple[list[str], list[Any]]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(name)
    rows = next(file.iter_batches(batch_size=ROWS), None)
    return list(file.schema_arrow.names), rows.to_pylist() if rows else []


def _arrow(name: str) -> tuple[list[str], list[Any]]:
    import pyarrow

    with pyarrow.memory_map(name) as source:
        try:  # as datasets, packaged_modules/arrow
            reader = pyarrow.ipc.open_stream(source)
            rows = next(iter(reader), None)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(source)
            rows = reader.get_batch(0) if reader.num_record_batches else None
        return list(reader.schema.names), rows.slice(0, ROWS).to_pylist() if rows else []


if __name__ == "__main__":
    main(sys.argv[1])
