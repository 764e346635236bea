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
from leviathan_train.system.files import read_json, write_json
from leviathan_train.trainer import upstream


def sources_file(cfg: Any) -> Path:
    """Where size and time of the files behind the prepared rows are kept."""
    return upstream.prepared_folder(cfg) / "leviathan-sources.json"


def sources(cfg: Any) -> dict[str, Any]:
    """What is known of the files that rows were prepared from; see `inputs.data_facts`."""
    known = read_json(sources_file(cfg))
    return known if isinstance(known, dict) else {}


def remember(cfg: Any, facts: dict[str, Any]) -> None:
    """Note what the files are that the rows are prepared from."""
    write_json(sources_file(cfg), sources(cfg) | facts)


def is_stale(cfg: Any, config: Config) -> bool:
    """Whether a data file has changed since rows were prepared from it.

    The prepared folder's name hashes the config only, so Axolotl would not notice.
    """
    return any(changed_data(config, sources(cfg)))


def discard_half_prepared(cfg: Any) -> None:
    """Remove tokenised rows that a kill left half-written, so that they are rebuilt.

    `save_to_disk` writes `state.json` last; Axolotl (utils/data/shared.py,
    `load_preprocessed_dataset`) takes any folder that is not empty for a whole one. A
    folder that another process is writing is protected by Axolotl's own lock.
    """
    from filelock import FileLock, Timeout

    prepared = upstream.prepared_folder(cfg)
    if not prepared.is_dir():
        return
    try:
        with FileLock(upstream.prepared_lock(prepared), timeout=0):
            for folder in prepared.iterdir():
                if not re.fullmatch(r"[0-9a-f]{32}", folder.name) or not folder.is_dir():
                    continue
                if not any(
                    (folder / name).exists() for name in ("state.json", "dataset_dict.json")
                ):
                    shutil.rmtree(folder)
    except Timeout:
        return
