"""What the Tab key offers besides commands and options: runs, configs and steps.

Click asks these functions, in a process of its own for each press. What cannot be found offers
nothing: an error would be written into the line that is being typed.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leviathan_train.errors import LeviathanError
from leviathan_train.run import lookup
from leviathan_train.run.folder import Run

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_YAML = (".yaml", ".yml")
_RESUME = ("ask", "auto", "never", "latest", "best")
_MERGE = ("final", "best", "latest")


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs, the one used last first; else files, since a folder or a config is one."""
    return _offer((run.name for run in lookup.all_runs()), incomplete, files=True)


def configs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """YAML files of the folder that is being typed, and of `configs/`; else any file."""
    return _offer(_configs(incomplete), incomplete, files=True)


def steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Steps of the run's checkpoints, the newest first."""
    return _offer(_steps(ctx), incomplete)


def resumes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `train --resume` takes; else files, for a path."""
    return _offer((*_RESUME, *_steps(ctx)), incomplete, files=True)


def adapters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `merge --checkpoint` takes; else files, for a path."""
    return _offer((*_MERGE, *_steps(ctx)), incomplete, files=True)


def _offer(words: Iterable[str], incomplete: str, *, files: bool = False) -> list[CompletionItem]:
    """The words that continue what is typed.

    Click's script for bash inserts them as they are, so that one with a space is left out.

    Args:
        files: let the shell complete files where no word does. In bash what is asked for later
            would take the words away.
    """
    from click.shell_completion import CompletionItem

    found = [word for word in words if word.startswith(incomplete) and shlex.quote(word) == word]
    items = [CompletionItem(incomplete, type="file")] if files else []
    return [*items, *map(CompletionItem, dict.fromkeys(found))]


def _configs(incomplete: str) -> Iterator[str]:
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    for place in (folder, *(() if "/" in incomplete else (Path("configs"),))):
        with contextlib.suppress(OSError):
            yield from (str(path) for path in sorted(place.iterdir()) if path.suffix in _YAML)


def _steps(ctx: click.Context) -> list[str]:
    from leviathan_train.checkpoints import store

    with contextlib.suppress(LeviathanError, OSError):
        return [str(step) for step, _ in reversed(store.folders(_run(ctx)))]
    return []


def _run(ctx: click.Context) -> Run:
    """The run that is named before the word that is being typed.

    Raises:
        LeviathanError: there is none.
    """
    named = ctx.params.get("run") or ctx.params.get("config_path")
    # Where the option still lacks its value, Click leaves all arguments unparsed.
    rest = [word for word in ctx.args if not word.startswith("-")]
    target = named or (rest[0] if rest else None)
    return lookup.find(str(target) if target else None)
