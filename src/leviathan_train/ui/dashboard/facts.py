"""The facts beside the curves: one labelled line each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from leviathan_train.system.gpu import Gpu
from leviathan_train.system.processes import hostname
from leviathan_train.system.units import duration, moment, size
from leviathan_train.ui.dashboard.chart import spark
from leviathan_train.ui.dashboard.layout import BAD, CURVE, EVAL, VALUE, Part, Parts, bar, fitted
from leviathan_train.ui.dashboard.snapshot import Snapshot
from leviathan_train.ui.text import number

if TYPE_CHECKING:
    from rich.text import Text

_LABEL = 17
_GPUS = 2
"""How many GPUs are shown one by one."""


def facts(now: Snapshot, width: int, *, plain: bool) -> Iterator[Text]:
    """The lines, in the order of what people look for; what does not fit whole is left out."""

    def field(label: str, first: Parts, *more: Parts) -> Text:
        return fitted(width, [f"{label:<{_LABEL}}", *first], *more)

    run, status = now.activity, now.activity.status
    yield field("Eval loss", *eval_loss(now), _course(now, plain=plain))
    rate = number(run.learning_rate, ".3e")
    grad = ["   grad norm ", value(run.grad_norm, ".3g")]
    yield field("Learning rate", [(rate, VALUE)], grad)
    for gpu in now.gpus[:_GPUS]:
        yield field(f"GPU {gpu.index}", *_gpu(gpu, plain=plain))
    if len(now.gpus) > _GPUS:
        yield field("", [f"and {len(now.gpus) - _GPUS} more"])
    if run.training and not now.gpus and status.gpu_memory_bytes:
        held = (size(status.gpu_memory_bytes), VALUE)
        yield field("GPU memory", [held, " by the trainer"])
    yield field("Next save", *_next_save(now))
    yield field("Last checkpoint", *_last_checkpoint(now))
    until = run.launch.off_by(hostname(), run.at, time.monotonic())
    if until and run.training:
        due = (moment(until, run.at), VALUE)
        left = duration(max(0.0, until - run.at))
        yield field("Pauses by", [due], [f", in {left}"])
    yield field("Disk", *_disk(now))
    yield field("Session", *_session(now))
    if run.training and status.pid:
        yield field("Process", [f"{status.pid} on {status.host}"])


def eval_loss(now: Snapshot) -> list[Parts]:
    """The last eval loss, and the best one."""
    told: list[Parts] = [[value(now.activity.eval_loss)]]
    if len(now.eval_losses) > 1:
        step, best = min(now.eval_losses, key=lambda point: point[1])
        told.append([f"  best {number(best)} at step {step}"])
    return told


def value(number_: float | None, form: str = ".4g") -> Part:
    """A number that stands out, and more so if it is NaN or infinite."""
    sound = number_ is None or abs(number_) < float("inf")
    return number(number_, form), VALUE if sound else f"{VALUE} {BAD}"


def _course(now: Snapshot, *, plain: bool) -> Parts:
    values = [point[1] for point in now.eval_losses]
    if len(values) < 2:
        return []
    last = " ".join(number(item) for item in values[-3:]) if plain else spark(values, 16)
    return ["  ", (last, EVAL)]


def _gpu(gpu: Gpu, *, plain: bool) -> list[Parts]:
    share = gpu.used_bytes / gpu.total_bytes if gpu.total_bytes else 0.0
    used: list[Part] = [(size(gpu.used_bytes), VALUE), f" of {size(gpu.total_bytes)}"]
    told: list[Parts] = [[*bar(share, 12, CURVE, plain=plain), " ", *used]]
    if gpu.utilisation is not None:
        told.append(["  ", (f"{gpu.utilisation}%", VALUE), " busy"])
    return [*told, [f"  {gpu.name.removeprefix('NVIDIA ')}"]]


def _next_save(now: Snapshot) -> list[Parts]:
    run, status = now.activity, now.activity.status
    told: list[Parts] = []
    if run.training and status.next_save_step:
        told.append(["step ", (str(status.next_save_step), VALUE)])
        if run.steps_per_second and status.next_save_step >= run.step:
            seconds = (status.next_save_step - run.step) / run.steps_per_second
            told.append([f" in {duration(seconds)}"])
    if run.training and status.next_save_at:
        due = moment(status.next_save_at, run.at)
        left = duration(max(0.0, status.next_save_at - run.at))
        told += [[", or " if told else "", (f"at {due}", VALUE)], [f" in {left}"]]
    return told or [["-"]]


def _last_checkpoint(now: Snapshot) -> list[Parts]:
    newest = now.activity.checkpoint
    if newest is None:
        return [["none yet"]]
    age = duration(max(0.0, now.activity.at - newest.modified))
    return [[(newest.name, VALUE)], [f", {age} ago"], [f", {size(newest.bytes)}"]]


def _disk(now: Snapshot) -> list[Parts]:
    if now.disk_free_bytes is None:
        return [["-"]]
    style = BAD if now.room is not None and now.room < 3 else VALUE
    told: list[Parts] = [[(size(now.disk_free_bytes), style), " free"]]
    if now.room is not None:
        told.append([", room for ", (f"{now.room:,}", style), " more checkpoints"])
    return told


def _session(now: Snapshot) -> list[Parts]:
    run = now.activity
    told: list[Parts] = [[(str(run.sessions), VALUE), " so far"]]
    if run.launch.started and run.training:
        age = (duration(run.at - run.launch.started), VALUE)
        told += [[f", this one since {moment(run.launch.started, run.at)}"], [", ", age]]
    return told
