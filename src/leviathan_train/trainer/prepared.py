"""The tokenised rows that Axolotl keeps: never half-written, never older than their files.

In the trainer's process.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from leviathan_train.config.inputs import changed_data
from leviathan_train.config.load import Config
from leviathan_train.system.files import read_json, read_object, write_json
from leviathan_train.trainer import upstream


def sources_file(cfg: Any) -> Path:
    """Where the facts of the files behind the prepared rows are kept."""
    return upstream.prepared_folder(cfg) / "leviathan-sources.json"


def sources(cfg: Any) -> dict[str, Any]:
    """What is known of the files that rows were prepared from; see `inputs.data_facts`."""
    return read_object(sources_file(cfg))


def remember(cfg: Any, facts: dict[str, Any]) -> None:
    """Note what the files are that the rows are prepared from."""
    write_json(sources_file(cfg), sources(cfg) | facts)


def is_stale(cfg: Any, config: Config) -> bool:
    """Whether a data file has changed since rows were prepared from it.

    The prepared folder's name hashes the config only, so Axolotl would not notice.
    """
    return any(changed_data(config, sources(cfg)))


def discard(cfg: Any, *, whole_ones: bool) -> None:
    """Remove tokenised rows that must not be used, so that they are rebuilt.

    A kill may have left some half-written: Axolotl (utils/data/shared.py,
    `load_preprocessed_dataset`) takes any folder that is not empty for a whole one. Rows older
    than their files go before they are rebuilt, since `save_to_disk` would write over them, and
    a kill amid that would leave a mixture. Folders that another process is writing are protected
    by Axolotl's own lock.

    Args:
        whole_ones: remove them all. One file may be behind the rows of several configs, and a
            folder's name does not tell which.
    """
    from filelock import FileLock, Timeout

    folder = upstream.prepared_folder(cfg)
    if not folder.is_dir():
        return
    try:
        with FileLock(upstream.prepared_lock(folder), timeout=0):
            for rows in folder.iterdir():
                named_by_hash = re.fullmatch(r"[0-9a-f]{32}", rows.name) and rows.is_dir()
                if named_by_hash and (whole_ones or not _is_whole(rows)):
                    shutil.rmtree(rows)
    except Timeout:
        return


def _is_whole(rows: Path) -> bool:
    """Whether `save_to_disk` came to its end (datasets, arrow_dataset.py and dataset_dict.py).

    Of one data set `dataset_info.json` is written last; of several, each lies in a folder.
    """
    splits = read_json(rows / "dataset_dict.json")
    if isinstance(splits, dict):
        return all(_is_whole(rows / str(name)) for name in splits.get("splits") or ())
    return all((rows / name).is_file() for name in ("state.json", "dataset_info.json"))
