"""The second pass: the rows that stay, into one Parquet file a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from stages.contract import progress
from stages.data.row_spool import as_spooled
from stages.data.split import SPLITS
from stages.formats.dataset_rows import SCHEMA
from stages.formats.splits import undesirable

_BATCH = 1000


def write_splits(
    rows: Path,
    split_of_row: np.ndarray,
    places: np.ndarray,
    out: Path,
    names: Sequence[str] = SPLITS,
    schema: pa.Schema = SCHEMA,
) -> dict[str, dict[str, int]]:
    """Write `train.parquet`, `validation.parquet`, …, one of each name, each in the order of `places`.

    `split_of_row`: int8 of shape (rows,), an index into `names` or -1 for a row that is left out;
    `places`: uint64 of the same shape; `schema`: the spool's. Sources are sorted by topic or date more often
    than not, and later stages take first rows for a limit or for calibration; so no split keeps the source's
    order.
    Returns rows, distinct prompts, tokens and trainable tokens per split; of preferences also the tokens of
    the chats with the other answer.
    """
    figures = {}
    counted = [name for name in ("tokens", "trainable", "rejected_tokens") if name in schema.names]
    done = 0
    with pa.memory_map(str(rows)) as file, pa.ipc.open_file(file) as table:
        starts = np.cumsum([0] + [table.get_batch(k).num_rows for k in range(table.num_record_batches)])
        for index, name in enumerate(names):
            chosen = np.flatnonzero(split_of_row == index)
            chosen = chosen[np.argsort(places[chosen], kind="stable")]
            count = {"rows": len(chosen), "prompts": 0, **dict.fromkeys(counted, 0)}
            prompts: set[bytes] = set()
            with pyarrow.parquet.ParquetWriter(out / f"{name}.parquet", schema, compression="zstd") as writer:
                for low in range(0, len(chosen), _BATCH):
                    part = _published(_take(table, starts, chosen[low : low + _BATCH]), schema)
                    writer.write_table(part)
                    for column in counted:
                        count[column] += pa.compute.sum(part.column(column)).as_py()
                    prompts.update(bytes.fromhex(h)[:16] for h in part.column("prompt_hash").to_pylist())
                    done += len(part)
                    progress(done, int((split_of_row >= 0).sum()), "rows written")
            figures[name] = {**count, "prompts": len(prompts)}
    return figures


def _take(table: Any, starts: np.ndarray, wanted: np.ndarray) -> Any:
    """The wanted rows in the wanted order, touching only the batches that hold them."""
    batch_of = np.searchsorted(starts, wanted, side="right") - 1
    order = np.argsort(batch_of, kind="stable")
    parts = [
        table.get_batch(int(k)).take(pa.array(wanted[order][batch_of[order] == k] - starts[k]))
        for k in np.unique(batch_of)
    ]
    back = np.empty(len(wanted), dtype=np.int64)
    back[order] = np.arange(len(wanted))
    return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


def _published(rows: Any, schema: pa.Schema) -> Any:
    if schema is SCHEMA:
        return rows.select(SCHEMA.names)
    return pa.Table.from_pylist(as_spooled(rows.to_pylist()), schema)


def first_row(out: Path, rendered: Callable[[list[dict[str, Any]]], str]) -> str:
    """The first row to train on, as a model sees it; of preferences also with the other answer, of labelled
    answers also the first bad one."""
    texts = []
    for file, before in ((out / "train.parquet", ""), (undesirable(out / "train.parquet"), "bad:\n\n")):
        if file.is_file():
            with pyarrow.parquet.ParquetFile(file) as table:
                row = next(row for batch in table.iter_batches(1) for row in batch.to_pylist())
            texts.append(before + rendered(row["messages"]))
            if "rejected" in row:
                texts.append("rejected:\n\n" + rendered([*row["messages"][:-1], row["rejected"]]))
    return "\n\n".join(texts)
