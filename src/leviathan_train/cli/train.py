"""`leviathan train`: start a run, or go on with it."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import click

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.options import accelerate_arguments, config_argument, sets_option
from leviathan_train.cli.prompts import ask, confirm, confirm_resume
from leviathan_train.config import changes, keys
from leviathan_train.config import load as config
from leviathan_train.config import requirements as needs
from leviathan_train.config.changes import Change
from leviathan_train.config.load import Config
from leviathan_train.errors import DONE, Declined, LeviathanError, UsageError
from leviathan_train.launch import follow as launch
from leviathan_train.launch import outcome as ending
from leviathan_train.launch import resume
from leviathan_train.launch.schedule import Window, supervise
from leviathan_train.run.folder import PAUSE_GRACE, End, Run, busy
from leviathan_train.ui import text as render
from leviathan_train.ui.progress import Screen


@click.command(
    short_help="Start CONFIG, or go on with it.",
    epilog=EXIT_STATUS,
    context_settings={"ignore_unknown_options": False},
)
@config_argument
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
    metavar="SECONDS",
    help="End hard a trainer that has not saved so long after Ctrl+C (default: 300).",
)
@sets_option
@click.option(
    "--window",
    metavar="HH:MM-HH:MM",
    help="Train only within these hours, day after day, until the training is finished.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Go on after a crash, at most N times without progress.",
)
@click.option("--dry-run", is_flag=True, help="Check all, print the command, start nothing.")
@accelerate_arguments
def train(
    config_path: Path,
    choice: str,
    yes: bool,
    until: str | None,
    for_: str | None,
    grace: float,
    sets: tuple[str, ...],
    window: str | None,
    max_restarts: int,
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
    hours = Window.parse(window) if window is not None else None
    start_of = Starter(cfg, grace, accelerate_args, yes=yes)
    start_of.check()
    plan = start_of.plan(choice, dry_run=dry_run)
    if plan is None:
        return DONE
    if dry_run:
        start_of.screen.line(shlex.join(plan.argv))
        return DONE
    plans = [plan]  # the first was confirmed by the user, the others go on by themselves

    def start(at: float | None) -> End:
        now = plans.pop() if plans else start_of.plan("auto", confirmed=True)
        if now is None:
            step = resume.finished_at(start_of.run, checkpoints.scan(start_of.run))
            return End("finished", step, None, "", time.time())
        return start_of.train(replace(now, until=at))

    try:
        end = supervise(
            start,
            start_of.screen.line,
            until=deadline,
            window=hours,
            max_restarts=max_restarts,
            wait=lambda opens: launch.wait_for_window(start_of.run, cfg, opens),
        )
    except KeyboardInterrupt:  # between two sessions
        end = End("stopped", None, None, "Ctrl+C", time.time())
    status = ending.exit_status(start_of.run, end)
    if end.kind == "crashed":
        raise ending.failure(start_of.run, end)
    start_of.screen.outcome(start_of.run, cfg, end, status)
    return status


class Starter:
    """What the starts of one command share.

    Args:
        accelerate: arguments for `accelerate launch`.
        yes: answer every question by yes.
        quiet: show nothing.
    """

    def __init__(
        self,
        cfg: Config,
        grace: float,
        accelerate: tuple[str, ...],
        *,
        yes: bool,
        quiet: bool = False,
    ) -> None:
        self.config = cfg
        self.run = Run(cfg.output_dir)
        self.screen = Screen(quiet=quiet)
        self._grace = grace
        self._accelerate = accelerate
        self._yes = yes

    def check(self) -> None:
        """Check what needs no look into the run.

        Raises:
            UsageError: an input or a package is missing, or a key or value is wrong.
            LeviathanError: the run is training already.
        """
        config.check_inputs(self.config)
        faulty_keys(self.config, self.screen, pass_all=self._yes)
        needs.require_gpu(self.config, has_gpu=launch.has_gpu())
        launch.check_packages()
        if session := self.run.live_session():
            raise busy(self.run, session)

    def plan(
        self, choice: str, *, dry_run: bool = False, confirmed: bool = False
    ) -> launch.Plan | None:
        """Decide what to go on from, and have it confirmed.

        Args:
            confirmed: the user has agreed before; changes are not asked about again.

        Returns:
            None if the run is finished.

        Raises:
            UsageError: there is no such checkpoint, or the config cannot go on from it.
            Declined: the user said no.
        """
        run, screen = self.run, self.screen
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if choice == "ask" and (self._yes or not interactive):
            choice = "auto"
        found = checkpoints.scan(run)
        offer = resume.choose(run, self.config, choice, found)
        if choice in {"ask", "auto"} and self._is_finished(found):
            step = resume.finished_at(run, found)
            screen.line(f"{run.name} is already finished, at step {step}.")
            screen.line(
                "Train on: raise num_epochs or max_steps.  Start over: --resume never."
                f"  Use it:  leviathan merge {run.name}"
            )
            return None
        screen.offer(run, offer)
        differences = self._changes(offer)
        prepare_anew = False
        if offer.ask and not dry_run:
            offer = confirm_resume(run, offer, found, screen)
        if offer.checkpoint and not dry_run and not confirmed:
            prepare_anew = self._confirm(differences, interactive)
        resume_from = None
        if offer.checkpoint:
            # As the config writes the run's folder, so that messages and commands read alike.
            ours = offer.checkpoint.path.resolve().parent == run.path.resolve()
            resume_from = run.path / offer.checkpoint.name if ours else offer.checkpoint.path
        argv = launch.build_argv(
            self.config, resume_from, self._accelerate, has_gpu=launch.has_gpu()
        )
        return launch.Plan(
            config=self.config,
            run=run,
            argv=argv,
            offer=offer,
            resume_from=resume_from,
            prepare_anew=prepare_anew,
            until=None,
            grace=self._grace,
        )

    def train(self, plan: launch.Plan) -> End:
        """Take the run, set the left branch aside, and train."""
        run, screen = self.run, self.screen
        with launch.Signals() as signals:
            session = launch.open_session(plan)
            retention.sweep(run)
            if aside := resume.set_aside(run, plan.offer.newer):
                names = ", ".join(sorted(path.name for path in aside.iterdir()))
                screen.line(f"Set aside in {aside}: {names}")
            if plan.resume_from is not None:
                screen.line("Resuming training...")
            training = launch.Training(plan, session, signals, screen.line, screen.progress)
            screen.line(f"Log: {training.log}")
            training.start()
            try:
                return training.follow()
            finally:
                screen.close()

    def _is_finished(self, found: list[checkpoints.Checkpoint]) -> bool:
        newest = checkpoints.latest(found)
        longer = newest is not None and resume.trains_longer(self.config, newest)
        return resume.finished_at(self.run, found) is not None and not longer

    def _changes(self, offer: resume.Offer) -> list[Change]:
        """What differs from the checkpoint, told on the screen.

        Raises:
            UsageError: a change makes the resume impossible.
        """
        if offer.checkpoint is None:
            return []
        processes = launch.processes_of(self._accelerate, has_gpu=launch.has_gpu())
        found = changes.compare(self.config, offer.checkpoint, world_size=processes)
        for line in render.changes(found):
            self.screen.line(line)
        refused = [change for change in found if change.effect == "refused"]
        if refused:
            first = refused[0]
            raise UsageError(
                f"{self.config.path}: {', '.join(change.key for change in refused)} must stay as in"
                f" {offer.checkpoint.name} ({first.key} was {first.old}): {first.why}.",
                "Restore it, or start another run with:  --set output_dir=work/training/NAME    or"
                " over:  --resume never",
            )
        return found

    def _confirm(self, found: list[Change], interactive: bool) -> bool:
        """Have changes that cost something confirmed.

        Returns:
            Whether the rows are to be prepared anew.
        """
        asked = [change for change in found if change.needs_yes]
        if not asked or self._yes:
            return False
        if not interactive:
            raise UsageError(
                f"{', '.join(change.key for change in asked)} changed since the checkpoint, and"
                " there is no terminal to ask at.",
                "Add --yes to go on with the prepared rows as they are, or restore the old value.",
            )
        stale = [change for change in asked if change.key.startswith("data file")]
        others = [change for change in asked if change not in stale]
        if others and not confirm("Go on all the same?"):
            raise Declined("Nothing was changed.")
        if not stale:
            return False
        answer = ask("Keep the prepared rows, or make them anew?", ("keep", "anew", "no"))
        if answer == "no":
            raise Declined("Nothing was changed.")
        return answer == "anew"


def faulty_keys(cfg: Config, screen: Screen, *, pass_all: bool) -> None:
    """Refuse what is wrong with the config's keys and values, or warn of what may pass.

    Args:
        pass_all: let pass whatever may; otherwise only keys that a plugin may know.

    Raises:
        UsageError: naming the first one that may not pass, and what was meant.
    """
    try:
        found = keys.problems(cfg, screen.line)
    except LeviathanError as error:  # Axolotl itself will judge them
        screen.line(f"⚠️  {error.message}")
        return
    refused = [
        problem
        for problem in found
        if problem.kind is not keys.Kind.MAYBE_OF_PLUGIN and not (pass_all and problem.may_pass)
    ]
    if refused:
        more = f" ({len(refused) - 1} more: leviathan check)" if len(refused) > 1 else ""
        first = refused[0]
        to_pass = " Or let it pass with:  --yes" if first.may_pass else ""
        raise UsageError(f"{first.message}{more}", f"{first.hint}{to_pass}")
    for problem in found:
        screen.line(f"⚠️  {problem.message}")


def _deadline(until: str | None, for_: str | None) -> float | None:
    """The end of the training's time, in seconds since the epoch."""
    if until is not None and for_ is not None:
        raise UsageError("--until and --for exclude each other.", "Give one of them.")
    if until is not None:
        try:
            clock = datetime.strptime(until, "%H:%M")
        except ValueError:
            raise UsageError(f"--until {until!r} is no time of day.", "Say e.g. 08:00.") from None
        now = datetime.now()
        at = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        return (at if at > now else at + timedelta(days=1)).timestamp()
    return time.time() + seconds_of(for_, "--for") if for_ is not None else None


def seconds_of(text: str, option: str) -> float:
    """A duration such as 8h, 1h30m or 45s in seconds.

    Raises:
        UsageError: it is none.
    """
    import re

    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?",
        text.strip(),
    )
    parts = [float(part or 0) for part in match.groups()] if match and text.strip() else []
    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise UsageError(f"{option} {text!r} is no duration.", "Say e.g. 8h, 90m, 1h30m or 45s.")
    return total
