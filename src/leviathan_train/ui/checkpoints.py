"""The pages of `leviathan checkpoints`, drawn from the values that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from leviathan_train.system import signs
from leviathan_train.system.units import clock, duration, size
from leviathan_train.ui.mirror import mirror
from leviathan_train.ui.text import count, hanging, number, plain, table


def listing(value: Any) -> None:
    """The table of `checkpoints list`."""
    found = value["checkpoints"]
    if not found:
        print(f"{plain(value['run'])} has no checkpoint yet.")
    else:
        headers = ["Step", "Size", "Date Modified", "Epoch", "Loss", "Eval Loss", "State", ""]
        rows = [
            [
                str(item["step"]),
                size(item["bytes"]),
                clock(item["modified"]),
                number(item["epoch"], ".2f"),
                number(item["loss"]),
                number(item["eval_loss"]) if _measured_there(item) else "-",
                _state(item),
                ", ".join(_marks(item)),
            ]
            for item in found
        ]
        table(headers, rows, spare=["Epoch", "Loss", "Eval Loss"])
        for item in found:
            if item["best"] and not _measured_there(item):
                print(f"* by the evaluation at step {item['eval_step']}, the last before it")
    if unread := sum(not item["is_read"] and item["state"] != "damaged" for item in found):
        told = f"Judged by structure and sizes: {unread}  (checkpoints verify reads every byte)"
        print(f"\n{hanging(told, 2)}")
    if value["superseded_bytes"]:
        aside = size(value["superseded_bytes"])
        print(f"\nSet aside: {aside}  (cleanup --superseded deletes it)")
    print(f"\nTotal size: {size(value['total_bytes'])}")
    if value["mirror"]:
        line = f"Mirror: {mirror(value['mirror'])}, as of {clock(value['mirror']['at'])}"
        here = {item["step"] for item in found}
        if only := sorted(set(value["mirror"]["steps"]) - here):
            line += f". Only there: {', '.join(map(str, only))}"
        print(hanging(line, 2))


def _measured_there(item: Any) -> bool:
    """Whether the eval loss that a checkpoint knows was measured at its own step."""
    return item["eval_step"] in (None, item["step"])


def _marks(item: Any) -> Iterator[str]:
    if item["latest"]:
        yield "latest"
    if item["best"]:
        yield "best" if _measured_there(item) else "best*"


def details(value: Any, title: str) -> None:
    """The page of `checkpoints latest`, `best` and `show`."""
    heading = {"latest": "LATEST", "best": "BEST"}.get(title, "")
    rule = "=" * 48
    print(f"{rule}\n{f'{heading} CHECKPOINT'.strip()}\n{rule}")
    print(hanging(f"Location: {plain(value['path'])}", 2))
    print(f"Step: {value['step']}")
    print(hanging(f"State: {_state(value)}", 7), end="\n\n")
    print("Training State:")
    print(f"  Current Step: {value['step']}")
    if value["max_steps"]:
        print(f"  Total Steps: {value['max_steps']}")
    print(f"  Epoch: {number(value['epoch'], '.2f')}")
    print(f"  Best Loss: {number(value['best_loss'])}")
    print(f"  Last Loss: {number(value['loss'])}")
    late = "" if _measured_there(value) else f" (measured at step {value['eval_step']})"
    print(f"  Eval Loss: {number(value['eval_loss'])}{late}")
    print(f"  Learning Rate: {number(value['learning_rate'], '.3e')}")
    if value["seconds_trained"] is not None:
        print(f"  Trained: {duration(value['seconds_trained'])}")
    print("\nFiles:")
    for file in value["files"]:
        print(f"  {plain(file['name'])} ({size(file['bytes'])})")


def verified(item: Any) -> None:
    """One line of `checkpoints verify`."""
    sign = signs.FAULT if item["state"] == "damaged" else signs.OK
    told = f"{sign} checkpoint-{item['step']} ({size(item['bytes'])}): {_state(item)}"
    print(hanging(told, 3), flush=True)


def verification(value: Any) -> None:
    """The last line of `checkpoints verify`."""
    found = len(value["checkpoints"])
    if not found:
        print(f"{plain(value['run'])} has no checkpoint yet.")
    elif value["damaged"]:
        are = "is" if value["damaged"] == 1 else "are"
        print(f"\n{value['damaged']} of {count(found, 'checkpoint')} {are} damaged.")
    else:
        print(f"\n{count(found, 'checkpoint')} verified: nothing is damaged.")


def plan(value: Any) -> None:
    """The plan of `checkpoints cleanup`."""
    found = value["checkpoints"]
    doomed = [item for item in found if not item["keep"]]
    stripped = sum(item["strip"] for item in doomed)
    oldest = " oldest" if doomed and doomed == found[: len(doomed)] else ""
    told = [f"delete {len(doomed) - stripped}{oldest}"] if len(doomed) > stripped else []
    told += [f"strip {stripped} to adapter weights"] if stripped else []
    print(f"Found {count(len(found), 'checkpoint')}. Will {' and '.join(told) or 'delete 0'}.")
    for item in found:
        word = "keep  " if item["keep"] else "strip " if item["strip"] else "delete"
        reasons = plain(", ".join(item["reasons"]))
        line = f"  {word}  checkpoint-{item['step']} ({size(item['bytes'])}): {reasons}"
        print(hanging(line, 10))


def _state(item: Any) -> str:
    damaged = item["state"] == "damaged"
    return plain(f"{item['state']}: {item['reason']}" if damaged else item["state"])
