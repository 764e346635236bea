"""`leviathan train`: start a run, or go on with it."""

from __future__ import annotations

import shlex
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import click

from leviathan_train import checkpoints, config, launch, render, resume, retention
from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.prompts import confirm_resume
from leviathan_train.config import Config
from leviathan_train.errors import UsageError
from leviathan_train.run import Run, busy
from leviathan_train.watch import PAUSE_GRACE


@click.command(epilog=EXIT_STATUS, context_settings={"ignore_unknown_options": False})
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--resume",
    "choice",
    default="ask",
    show_default=True,
    metavar="ask|auto|never|latest|best|STEP|PATH",
    help="What to go on from. Without a terminal, ask means auto; never sets the checkpoints"
    " of the run aside.",
)
@click.option("--yes", is_flag=True, help="Answer yes to every question.")
@click.option("--until", metavar="HH:MM", help="Be off the GPU by then: save and stop in time.")
@click.option("--for", "for_", metavar="DURATION", help="The same after e.g. 8h, 90m, 1h30m, 45s.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=PAUSE_GRACE,
    show_default=True,
    metavar="SECONDS",
    help="End hard a trainer that has not saved so long after Ctrl+C.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--dry-run", is_flag=True, help="Check all, print the command, start nothing.")
@click.argument("accelerate_args", nargs=-1, metavar="[-- ACCELERATE_LAUNCH_ARGS...]")
def train(
    config_path: Path,
    choice: str,
    yes: bool,
    until: str | None,
    for_: str | None,
    grace: float,
    sets: tuple[str, ...],
    dry_run: bool,
    accelerate_args: tuple[str, ...],
) -> int:
    """Train CONFIG, or go on with it from its newest intact checkpoint.

    Ctrl+C once: the current step finishes, a full checkpoint of it is saved, and the
    training stops; twice: it ends at once. Type the same command to go on.

    Example:  leviathan train configs/demo_cpu.yaml --until 08:00
    """
    cfg = config.load(config_path, sets)
    deadline = _deadline(until, for_)
    config.check_inputs(cfg)
    launch.check_packages()
    run = Run(cfg.output_dir)
    if session := run.live_session():
        raise busy(run, session)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    choice = "auto" if choice == "ask" and (yes or not interactive) else choice
    found = checkpoints.scan(run)
    offer = resume.choose(run, cfg, choice, found)
    screen = render.Screen()
    if choice in {"ask", "auto"} and _is_finished(run, cfg, found):
        step = resume.finished_at(run, found)
        screen.line(f"{run.name} is already finished, at step {step}.")
        screen.line(
            "Train on: raise num_epochs or max_steps.  Start over: --resume never.  Use it:"
            f"  leviathan merge {run.name}"
        )
        return 0
    screen.offer(run, offer)
    if offer.ask and not dry_run:
        offer = confirm_resume(run, offer, found, screen)
    resume_from = None
    if offer.checkpoint:
        # As the config writes the run's folder, so that messages and commands read alike.
        ours = offer.checkpoint.path.resolve().parent == run.path.resolve()
        resume_from = run.path / offer.checkpoint.name if ours else offer.checkpoint.path
    plan = launch.Plan(
        config=cfg,
        run=run,
        argv=launch.build_argv(cfg, resume_from, accelerate_args, has_gpu=launch.has_gpu()),
        resume_from=resume_from,
        resume_step=offer.checkpoint.step if offer.checkpoint else None,
        resume_from_config=offer.from_config,
        until=deadline,
        grace=grace,
    )
    if dry_run:
        screen.line(shlex.join(plan.argv))
        return 0
    return start(plan, offer, screen)


def start(plan: launch.Plan, offer: resume.Offer, screen: render.Screen) -> int:
    """Take the run, set the left branch aside, train, and tell the outcome."""
    run = plan.run
    session = launch.open_session(plan)
    retention.sweep(run)
    if aside := resume.set_aside(run, offer.newer):
        names = ", ".join(sorted(path.name for path in aside.iterdir()))
        screen.line(f"Set aside in {aside}: {names}")
    if plan.resume_step is not None:
        screen.line("Resuming training...")
    training = launch.Training(plan, session, screen.line, screen.progress)
    screen.line(f"Log: {training.log}")
    training.start()
    try:
        end = training.follow()
    finally:
        screen.close()
    status = launch.exit_status(run, end)
    if end.kind == "crashed":
        raise launch.failure(run, end, training.log)
    screen.outcome(run, plan.config, end, status)
    return status


def _is_finished(run: Run, cfg: Config, found: list[checkpoints.Checkpoint]) -> bool:
    step = resume.finished_at(run, found)
    newest = checkpoints.latest(found)
    return step is not None and not (newest and resume.trains_longer(cfg, newest))


def _deadline(until: str | None, for_: str | None) -> float | None:
    """The end of the training's time, in seconds since the epoch."""
    if until and for_:
        raise UsageError("--until and --for exclude each other.", "Give one of them.")
    if until:
        try:
            clock = datetime.strptime(until, "%H:%M")
        except ValueError:
            raise UsageError(f"--until {until!r} is no time of day.", "Say e.g. 08:00.") from None
        now = datetime.now()
        at = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        return (at if at > now else at + timedelta(days=1)).timestamp()
    return time.time() + seconds_of(for_, "--for") if for_ else None


def seconds_of(text: str, option: str) -> float:
    """A duration such as 8h, 1h30m or 45s in seconds.

    Raises:
        UsageError: it is none.
    """
    import re

    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    parts = [float(part or 0) for part in match.groups()] if match and text.strip() else []
    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise UsageError(f"{option} {text!r} is no duration.", "Say e.g. 8h, 90m, 1h30m or 45s.")
    return total
