"""A training started from the command line: check, plan with the user's answers, train.

Nothing here knows a terminal: what is told and asked goes through a `Dialog`, see
`launch.confirm`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.aside import set_aside
from leviathan_train.checkpoints.final import finished_at
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.changes import Change, changes_since
from leviathan_train.config.effects import Effect
from leviathan_train.config.load import Config
from leviathan_train.errors import UsageError
from leviathan_train.launch import (
    command,
    confirm,
    follow,
    outcome,
    preflight,
    resume,
)
from leviathan_train.launch.ahead import read_ahead
from leviathan_train.launch.command import Plan, Typed
from leviathan_train.launch.confirm import Dialog
from leviathan_train.launch.findings import Finding, Level, Topic
from leviathan_train.launch.machines import ALONE, Layout, with_machine
from leviathan_train.launch.mirrored import Mirror, copied, fetch_newer
from leviathan_train.launch.resume import Offer
from leviathan_train.launch.schedule import TimeLimit, supervise
from leviathan_train.launch.window import Window, wait_for_window
from leviathan_train.run.folder import Run, busy
from leviathan_train.run.lookup import in_command
from leviathan_train.run.records import PAUSE_GRACE, Cause, End, Ending
from leviathan_train.run.sweep import sweep
from leviathan_train.system.units import count

_READING = 1.0
"""Seconds for which the data files are read before a start."""


@dataclass(frozen=True)
class Options:
    """What the user asked for, the same for each start of one command.

    Attributes:
        typed: for the commands that are shown.
        resume: `ask`, `auto`, `never`, `latest`, `best`, a step, or a path.
        yes: answer every question with yes.
        grace: see `command.Plan`.
        accelerate: arguments for `accelerate launch`.
        layout: what they ask for.
        mirror: the text of `--mirror`.
        wait_for_copy: whether the end of a training waits for the last checkpoint's copy.
    """

    typed: Typed
    resume: str = "ask"
    yes: bool = False
    grace: float = PAUSE_GRACE
    accelerate: tuple[str, ...] = ()
    layout: Layout = ALONE
    mirror: str | None = None
    wait_for_copy: bool = True


class Starter:
    """The starts of one command: one, or many within a window or after crashes."""

    def __init__(self, config: Config, options: Options, dialog: Dialog) -> None:
        self.config = config
        self.run = Run(config.output_dir)
        self.options = options
        self.dialog = dialog
        self._is_new = not self.run.path.exists()
        self._mirror = Mirror.of(self.run, config.values, options.mirror)

    def check(self) -> None:
        """Check what needs no look at the run's checkpoints; warnings are told.

        Raises:
            UsageError: an input or a package is missing, a key is unknown, or a GPU is needed.
            LeviathanError: the run is training already.
        """
        # What a checkpoint was trained on could be read.
        seconds = 0.0 if checkpoints.folders(self.run) else _READING
        found = list(preflight.settings(self.config, has_gpu=command.has_gpu(), seconds=seconds))
        if not any(one.level is Level.ERROR for one in found):
            found += preflight.known_keys(self.config, self.dialog.tell)
        passable = {Topic.KEYS} if self.options.yes else set()
        errors = [one for one in found if one.level is Level.ERROR and one.topic not in passable]
        if errors:
            first = errors[0]
            check = self.options.typed.check()
            more = f" ({len(errors) - 1} more: {check})" if len(errors) > 1 else ""
            hint = first.hint
            if first.topic is Topic.KEYS:
                hint = f"{hint} Or accept it with:  --yes"
            raise UsageError(f"{first.message}{more}", hint)
        _warn(self.dialog, found)
        _warn_of_one_process(self.dialog, self.options.layout)
        if self.options.layout.is_first and (session := self.run.live_session()):
            raise busy(self.run, session)

    def plan(self, *, dry_run: bool = False, first: bool = True) -> Plan | None:
        """Decide what to resume from, and have it confirmed.

        Args:
            dry_run: ask nothing.
            first: whether it is the command's first start; the later ones resume from the
                newest checkpoint, and nothing that was confirmed is asked again.

        Returns:
            None if the run is finished.

        Raises:
            UsageError: there is no such checkpoint, or the config cannot resume from it.
            Declined: the user said no.
        """
        run, options = self.run, self.options
        choice = options.resume if first else "auto"
        if choice == "ask" and (options.yes or not self.dialog.interactive):
            choice = "auto"
        coming = None
        if first and self._mirror and not self.config.resume_from_checkpoint:
            yes = options.yes
            choice, coming = fetch_newer(
                self._mirror, run, choice, self.dialog, yes=yes, dry_run=dry_run
            )
        found = _with(coming, checkpoints.scan(run))
        offer = resume.choose(run, self.config, choice, found)
        newest = checkpoints.latest(found)
        chosen = offer.checkpoint
        goes_on = newest and chosen and chosen.path.resolve() == newest.path.resolve()
        unnamed = choice in {"ask", "auto"} and not offer.from_config
        if (unnamed or goes_on) and self.is_finished(found):
            return None
        if not dry_run:
            read_ahead()
        _warn(self.dialog, _looked_at_machine(self.config, run, found, offer, first=first))
        self.dialog.show_offer(run, offer)
        differences = self._changes(offer)
        if first and not coming:
            confirm.confirm_source(self.dialog, run, offer, yes=options.yes, dry_run=dry_run)
        rebuild = False
        if not dry_run and offer.ask:
            offer = confirm.confirm_resume(self.dialog, run, offer, found, options.typed)
        if offer.checkpoint and first and not (dry_run and self.dialog.interactive):
            rebuild = confirm.confirm_changes(self.dialog, differences, yes=options.yes)
        return self.plan_of(offer, resume.path_in(run, offer), rebuild_rows=rebuild)

    def plan_of(self, offer: Offer, resume_from: Path | None, *, rebuild_rows: bool) -> Plan:
        """The plan of a start on this machine, with the options of the command."""
        options = self.options
        return Plan(
            config=self.config,
            run=self.run,
            typed=options.typed,
            argv=command.build_argv(
                self.config, resume_from, options.accelerate, has_gpu=command.has_gpu()
            ),
            offer=offer,
            resume_from=resume_from,
            rebuild_rows=rebuild_rows,
            grace=options.grace,
            layout=options.layout,
        )

    def train(self, plan: Plan) -> End:
        """Take the run, set the branch that is left aside, and train until the session ends."""
        with follow.noted_signals() as signals:
            session = follow.open_session(plan)
            sweep(self.run)
            retention.sweep(self.run)
            self.switch_branch(plan.offer)
            if plan.resume_from is not None:
                self.dialog.tell("Resuming training...")
            training = follow.Training(plan, session, signals, self.dialog)
            training.start()
            _call_others(plan, self.dialog)
            wait = self.options.wait_for_copy
            with copied(self._mirror, training, lambda: bool(signals.take()), wait=wait):
                return training.follow()

    def train_all(
        self, plan: Plan, limit: TimeLimit, window: Window | None, max_restarts: int
    ) -> End:
        """Train as planned, then as often as the window and the restarts ask for."""
        plans = [plan]

        def start(limit: TimeLimit) -> End:
            if window:
                read_ahead()  # it may have been hours since the plan was made
            now = plans.pop() if plans else self.plan(first=False)
            if now is None:
                step = finished_at(self.run, checkpoints.scan(self.run))
                return End(Ending.FINISHED, step, None, "", time.time(), Cause.DONE)
            return self.train(replace(now, until=limit.at, until_monotonic=limit.monotonic_at))

        return supervise(
            start,
            self.dialog.tell,
            limit=limit,
            window=window,
            max_restarts=max_restarts,
            wait=lambda opens: wait_for_window(self.run, self.config.path, opens),
        )

    def exit_status(self, end: End) -> int:
        """The exit status that the last end means.

        Raises:
            LeviathanError: it is a crash. A run that was made for it and never began to train
                is removed, and its log is kept elsewhere.
        """
        if end.kind is not Ending.CRASHED:
            return outcome.exit_status(self.run, end)
        session = self.run.session()
        log = follow.log_of(session, self.options.layout) if session else self.run.logs
        alone = self.options.layout.machines < 2  # else others read the records still
        if session and self._is_new and alone and not _has_trained(self.run):
            log = outcome.discard(self.run, log)
        raise outcome.failure(self.run, end, log, self.options.typed.again())

    def is_finished(self, found: list[Checkpoint]) -> bool:
        """Whether there is nothing left to train; told, with what to type next."""
        step = finished_at(self.run, found)
        newest = checkpoints.latest(found)
        if step is None or (newest and resume.trains_longer(self.config, newest)):
            return False
        self.dialog.tell(f"{self.run.name} is already finished, at step {step}.")
        over = self.options.typed.again("--resume", "never")
        self.dialog.tell(f"Use it:  leviathan merge {in_command(self.run)}")
        self.dialog.tell("Train longer: raise num_epochs or max_steps.")
        self.dialog.tell(f"Start over, setting its checkpoints aside:  {over}")
        return True

    def switch_branch(self, offer: Offer) -> None:
        """Set the branch that is left aside, and bring back the one that was set aside before."""
        newest = checkpoints.latest(list(offer.newer))
        typed = self.options.typed.without_sets(_refused(newest, self.config) if newest else ())
        if aside := set_aside(self.run, offer.newer):
            names = ", ".join(sorted(path.name for path in aside.glob("checkpoint-*")))
            self.dialog.tell(f"Set aside in {aside}: {names}")
            if newest:
                back = typed.again("--resume", str(aside / newest.name))
                self.dialog.tell(f"Bring them back with:  {back}")
        if offer.checkpoint and offer.superseded:
            names = ", ".join(resume.bring_back(self.run, offer.checkpoint))
            self.dialog.tell(f"Brought back from {offer.checkpoint.path.parent}: {names}")

    def _changes(self, offer: Offer) -> list[Change]:
        """What differs from the checkpoint, told.

        Raises:
            UsageError: a change makes the resume impossible.
        """
        if offer.checkpoint is None:
            return []
        processes = self.options.layout.processes
        found = changes_since(origin_of(offer.checkpoint), self.config, world_size=processes)
        for one in found:
            old, new = one.shown
            self.dialog.tell(f"   {one.key}: {old} -> {new}: {one.effect} ({one.why})")
        confirm.refuse(self.config, offer, found, self.options.typed)
        return found


def _has_trained(run: Run) -> bool:
    """Whether any session of a run came to its first step, or left a checkpoint."""
    return bool(checkpoints.folders(run)) or any(session.begin for session in run.sessions())


def _refused(checkpoint: Checkpoint, config: Config) -> list[str]:
    """The keys of a config with which a checkpoint cannot be resumed."""
    found = changes_since(origin_of(checkpoint), config)
    return [change.key for change in found if change.effect is Effect.REFUSED]


def _with(coming: Checkpoint | None, found: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints, with one that would be fetched in the place of its own step."""
    if coming is None:
        return found
    others = [item for item in found if item.step != coming.step]
    return sorted([*others, coming], key=lambda item: item.step)


def _warn_of_one_process(dialog: Dialog, layout: Layout) -> None:
    if layout.asked:
        dialog.tell(
            f"⚠️  Without a GPU accelerate starts one process, not {layout.asked}. Several on the"
            " CPU:  --multi_gpu, with ACCELERATE_USE_CPU=true in the environment."
        )


def _warn(dialog: Dialog, found: Iterable[Finding]) -> None:
    for one in found:
        if one.level is not Level.OK:
            dialog.tell(f"⚠️  {one.message}")


def _call_others(plan: Plan, dialog: Dialog) -> None:
    """Say what to type on the other machines, if there are any: training waits for them."""
    if (others := plan.layout.machines - 1) > 0:
        there = replace(plan.typed, accelerate=with_machine(plan.typed.accelerate, 1))
        dialog.tell(
            f"Waiting for {count(others, 'other machine')}. Type there, with its number: "
            f" {there.again()}"
        )


def _looked_at_machine(
    config: Config, run: Run, found: list[Checkpoint], offer: Offer, *, first: bool
) -> list[Finding]:
    """What is short on this machine, to be told once for each command.

    Raises:
        UsageError: the disk has no room for one more checkpoint.
    """
    disk = preflight.disk(config, run, found, offer.newer)
    if disk.level is Level.ERROR:
        raise UsageError(disk.message, disk.hint)
    if not first:
        return []
    return list(preflight.machine(config, run, found, offer.newer, has_gpu=command.has_gpu()))
