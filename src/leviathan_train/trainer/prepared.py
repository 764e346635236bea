"""The tokenised rows that Axolotl keeps: never half-written, never older than their files.

In the trainer's process.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from leviathan_train.config.inputs import changed_data
from leviathan_train.config.load import Config
from leviathan_train.system.files import read_json, read_object, write_json
from leviathan_train.trainer import upstream

_HASH = re.compile(r"[0-9a-f]{32}")


def sources_file(cfg: Any) -> Path:
    """Where the facts of the files behind the prepared rows are kept."""
    return upstream.prepared_folder(cfg) / "leviathan-sources.json"


def _files_file(cfg: Any) -> Path:
    """Where it is noted which files the rows of each folder were prepared from."""
    return upstream.prepared_folder(cfg) / "leviathan-files.json"


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


def folders(cfg: Any) -> dict[str, int]:
    """The folders of tokenised rows, named by Axolotl's hash, and when each was written, in ns.

    0 stands for rows that are half-written.
    """
    folder = upstream.prepared_folder(cfg)
    found = folder.iterdir() if folder.is_dir() else ()
    return {rows.name: _written(rows) for rows in found if _HASH.fullmatch(rows.name)}


def note_files(cfg: Any, before: Mapping[str, int], files: Iterable[Path]) -> None:
    """Note from which data files the rows were prepared that are newer than `before`.

    Where two trainings prepare rows at once, each notes its files for both.

    Args:
        before: what `folders` gave.
        files: files, folders and patterns, as the config has them.
    """
    now = folders(cfg)
    names = [name for name, written in now.items() if before.get(name) != written]
    if not names:
        return
    paths, noted = _real(files), _noted_files(cfg)
    noted |= {name: paths | noted.get(name, set()) for name in names}
    with contextlib.suppress(OSError):  # without the note they are rows of unknown files
        write_json(
            _files_file(cfg), {name: sorted(of) for name, of in noted.items() if name in now}
        )


def discard(cfg: Any, made_of: Iterable[Path] | None = None) -> None:
    """Remove tokenised rows that must not be used, so that they are rebuilt.

    A kill may have left some half-written: Axolotl (utils/data/shared.py,
    `load_preprocessed_dataset`) takes any folder that is not empty for a whole one. Rows older
    than their files go before they are rebuilt, since `save_to_disk` would write over them, and
    a kill amid that would leave a mixture. Folders that another process is writing are protected
    by Axolotl's own lock.

    Args:
        made_of: the data files whose rows are to be prepared anew, as for `note_files`. All rows
            that were prepared from one of them go, whatever config they are of, and those of
            which that is not known.
    """
    from filelock import FileLock, Timeout

    folder = upstream.prepared_folder(cfg)
    if not folder.is_dir():
        return
    noted, paths = _noted_files(cfg), _real(made_of or ())
    try:
        with FileLock(upstream.prepared_lock(folder), timeout=0):
            for name in folders(cfg):
                is_old = made_of is not None and _overlap(paths, noted.get(name))
                if is_old or not _is_whole(folder / name):
                    shutil.rmtree(folder / name)
    except Timeout:
        return


def _noted_files(cfg: Any) -> dict[str, set[str]]:
    noted = read_object(_files_file(cfg))
    return {name: set(map(str, of)) for name, of in noted.items() if isinstance(of, list) and of}


def _real(files: Iterable[Path]) -> set[str]:
    """The real paths of files, and of those that a pattern stands for."""
    found = (match for file in files for match in glob.glob(str(file)) or [str(file)])
    return set(map(os.path.realpath, found))


def _overlap(paths: Collection[str], noted: Collection[str] | None) -> bool:
    """Whether rows are of one of these files, or of a folder that holds it, or of nobody knows."""
    return noted is None or any(
        path == one or path.startswith(f"{one}{os.sep}") or one.startswith(f"{path}{os.sep}")
        for path in paths
        for one in noted
    )


def _written(rows: Path) -> int:
    files = (rows / name for name in ("dataset_dict.json", "dataset_info.json"))
    return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)


def _is_whole(rows: Path) -> bool:
    """Whether `save_to_disk` came to its end (datasets, arrow_dataset.py and dataset_dict.py).

    Of one data set `dataset_info.json` is written last; of several, each lies in a folder.
    """
    splits = read_json(rows / "dataset_dict.json")
    if isinstance(splits, dict):
        return all(_is_whole(rows / str(name)) for name in splits.get("splits") or ())
    return all((rows / name).is_file() for name in ("state.json", "dataset_info.json"))
