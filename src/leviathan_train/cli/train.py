"""`leviathan train`: start a run, or resume it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from leviathan_train.cli import complete
from leviathan_train.cli.options import (
    Count,
    LaunchCommand,
    Seconds,
    config_argument,
    sets_option,
    typed,
)
from leviathan_train.cli.prompts import TerminalDialog
from leviathan_train.config.load import Config, load_config
from leviathan_train.errors import DONE, UsageError
from leviathan_train.launch.command import check_launcher, has_gpu
from leviathan_train.launch.follow import stopped_by
from leviathan_train.launch.join import Joiner
from leviathan_train.launch.machines import layout_of
from leviathan_train.launch.on_end import on_end as at_the_end
from leviathan_train.launch.schedule import TimeLimit
from leviathan_train.launch.slurm import ON_END_PATIENCE, Allocation
from leviathan_train.launch.start import Options, Starter
from leviathan_train.launch.window import Window
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import command_of
from leviathan_train.run.records import PAUSE_GRACE, Cause, End, Ending
from leviathan_train.system.signals import WARNINGS, NotedSignals
from leviathan_train.ui.progress import Screen

_ONLY_ONCE = frozenset({"choice", "dry_run"})
"""Options that the command to type next leaves out: `--resume 40` would go back again."""


@click.command(cls=LaunchCommand, short_help="Start CONFIG, or resume it.")
@config_argument
@click.option(
    "--resume",
    "choice",
    default="ask",
    show_default=True,
    metavar="ask|auto|never|latest|best|STEP|PATH",
    help="What to resume from. Without a terminal, ask means auto. `never` starts over and sets"
    " existing checkpoints aside; the PATH of one that was set aside brings it back.",
    shell_complete=complete.resumes,
)
@click.option("--yes", is_flag=True, help="Answer yes to every question.")
@click.option("--until", metavar="HH:MM", help="Save and stop early enough to be off the GPU then.")
@click.option(
    "--for",
    "for_",
    metavar="DURATION",
    help="The same after a duration such as 8h, 90m, 1h30m or 45s, even if the clock is set.",
)
@click.option(
    "--grace",
    type=Seconds(min=0),
    default=PAUSE_GRACE,
    metavar="SECONDS",
    help="Kill the trainer if it has not saved this many seconds after Ctrl+C (default: 300).",
)
@sets_option
@click.option(
    "--window",
    metavar="HH:MM-HH:MM",
    help="Train only within these hours, day after day, until the training is finished.",
)
@click.option(
    "--max-restarts",
    type=Count(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Restart after a crash, at most N times without progress.",
)
@click.option(
    "--requeue",
    is_flag=True,
    help="In a Slurm job: put the job back into the queue after a pause that Slurm caused (time"
    " limit, preemption, scancel --signal). See docs/slurm.md.",
)
@click.option(
    "--on-end",
    metavar="COMMAND",
    help="Run COMMAND in a shell, once, when this command ends, however it ends. LEVIATHAN_RUN,"
    " _PATH, _STATUS, _END, _STEP and _WHY in its environment tell how.",
)
@click.option(
    "--mirror",
    metavar="URL",
    help="Copy each checkpoint there, and fetch a newer one from there: s3://, gs://, az://, hf://,"
    " sftp:// or a folder. In the config: leviathan_mirror.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, print the command, start nothing.")
@click.pass_context
def train(
    ctx: click.Context,
    config_path: Path,
    choice: str,
    yes: bool,
    until: str | None,
    for_: str | None,
    grace: float,
    sets: tuple[str, ...],
    window: str | None,
    max_restarts: int,
    requeue: bool,
    on_end: str | None,
    mirror: str | None,
    dry_run: bool,
    accelerate_args: tuple[str, ...],
) -> int:
    """Train CONFIG, or resume it from its newest intact checkpoint.

    Ctrl+C once: the current step finishes, a full checkpoint of it is saved, and the
    training stops. Twice: it is killed. Type the same command to resume.

    Example:  leviathan train configs/demo_cpu.yaml --until 08:00
    """
    cfg = _loaded(config_path, sets)
    limit = TimeLimit.parse(until, for_)
    hours = Window.parse(window) if window is not None else None
    if on_end is not None and not on_end.strip():
        raise UsageError("--on-end is empty.", "Example:  --on-end 'mail -s \"$LEVIATHAN_END\" me'")
    slurm = Allocation.here(requeue=requeue)
    again = typed(ctx, without=_ONLY_ONCE)
    screen = TerminalDialog()
    layout = layout_of(accelerate_args, has_gpu=has_gpu())
    if not layout.is_first:
        slurm, mirror = None, None  # the first machine's command decides
    if slurm:
        choice = slurm.choice(Run(cfg.output_dir), choice, screen.line)
    options = Options(again, choice, yes, grace, accelerate_args, layout, mirror, not requeue)
    starter = Starter(cfg, options, screen)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C, until it trains
    with NotedSignals(WARNINGS) as early:  # from here on a warning does not kill this process
        starter.check()
        if layout.is_first or dry_run:
            plan = starter.plan(dry_run=dry_run)
            if plan is None:
                return DONE if dry_run else _done_before(starter, screen, on_end)
            if dry_run:
                if accelerate_args:
                    check_launcher(accelerate_args)
                screen.command(plan.argv)
                return DONE
            if slurm:
                limit = slurm.limit(limit, screen.line)
            train_all = partial(starter.train_all, plan, limit, hours, max_restarts)
        else:
            joiner = Joiner(starter)
            if joiner.is_finished():
                return DONE
            train_all = partial(joiner.train_all, limit, hours, max_restarts)
        return _followed(lambda: stopped_by(early) or train_all(), starter, screen, on_end, slurm)


def _done_before(starter: Starter, screen: TerminalDialog, on_end: str | None) -> int:
    """The end of a command that found nothing left to train."""
    with at_the_end(on_end, starter.run, screen.line) as result:
        result.end, result.status = End(Ending.FINISHED, why="already finished"), DONE
    return DONE


def _loaded(path: Path, sets: tuple[str, ...]) -> Config:
    """The config; for a run that was named in its place, the command that resumes it is told.

    Raises:
        UsageError: see `load_config`.
    """
    try:
        return load_config(path, sets)
    except UsageError as error:
        if not os.path.isfile(path) and (again := command_of(str(path))):
            raise UsageError(error.message, f"To resume this run:  {again}") from None
        raise


def _followed(
    train_all: Callable[[], End],
    starter: Starter,
    screen: Screen,
    on_end: str | None,
    slurm: Allocation | None,
) -> int:
    """Train, tell how it ended and do what was asked for then; the exit status."""
    run, interrupted = starter.run, False
    with at_the_end(on_end, run, screen.line) as result:
        try:
            result.end = train_all()
        except KeyboardInterrupt:  # between two sessions
            result.end = End.stopped("Ctrl+C", Cause.PERSON)
        result.status = starter.exit_status(result.end)
        screen.outcome(run, starter.options.typed.again(), result.end, result.status)
        if slurm and (interrupted := slurm.is_interrupted(run, result.end)):
            result.patience = ON_END_PATIENCE
    if slurm and interrupted:  # as the last deed: it ends this process
        slurm.put_back(run, result.end, screen.line)
    return result.status
