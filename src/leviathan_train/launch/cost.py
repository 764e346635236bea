"""What a run will cost before it begins: memory, steps, hours, and the rows that will hurt."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.base_model import model_folder
from leviathan_train.config.load import Config, entries, normalise, number
from leviathan_train.config.memory import memory
from leviathan_train.config.requirements import is_on
from leviathan_train.config.survey import Fault, Survey
from leviathan_train.errors import UsageError
from leviathan_train.launch.disk import last_step, speed_of
from leviathan_train.launch.findings import Finding, Level, Topic, ok
from leviathan_train.run.folder import Run
from leviathan_train.system import units
from leviathan_train.system.gpu import Gpu

NO_ROW = "no row is left to train on"
_UNITS = {"": 30, "k": 10, "m": 20, "g": 30, "t": 40}


def card_size(text: str) -> int:
    """The bytes of a GPU's memory as people write it: 16GB, 24G, 80GiB, 16.

    A card sold with 16 GB has 16 GiB; NVIDIA counts so.

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    size = float(found[1]) * (1 << _UNITS[found[2]]) if found else 0
    if size < 1 or not math.isfinite(size):
        raise UsageError(f"--gpu {text!r} is not a size of memory.", "For example:  --gpu 16GB")
    return int(size)


def gpu_memory(config: Config, cards: Sequence[Gpu], size: int | None) -> Finding:
    """Compare what the training will hold with the smallest card.

    Args:
        cards: the GPUs that torch would use.
        size: bytes of the card to judge for instead.
    """
    on_gpu = bool(cards) or size is not None
    found = memory(config) if on_gpu else memory(config, context=0)
    if found.unknown:
        return ok(Topic.MEMORY, f"The memory that it needs is not known: {found.unknown}.")
    smallest = min(cards, key=lambda card: card.total_bytes, default=None)
    total = size or (smallest.total_bytes if smallest else None)
    parts = " + ".join(f"{part.name} {units.size(part.bytes)}" for part in found.parts)
    told = f"{units.size(found.bytes)} at the peak: {parts}"
    numbers = {
        "bytes": found.bytes,
        "parts": [asdict(part) for part in found.parts],
        "gpu_bytes": total,
        "estimated": True,
    }
    if total is None:
        return ok(Topic.MEMORY, f"Memory, estimated: {told}.", numbers)
    where = f"of {units.size(total)}" + (" on the GPU" if size is None else "")
    told = f"GPU memory, estimated: {told}, {where}."
    if found.bytes <= total:
        return ok(Topic.MEMORY, told, numbers)
    return Finding(Level.WARNING, Topic.MEMORY, told, _smaller(config), numbers=numbers)


def _smaller(config: Config) -> str:
    """The settings that would take less memory and are not used, the mildest first."""
    values = config.values
    name = str(values.get("optimizer") or "")
    options = [
        (not is_on(values.get("gradient_checkpointing")), "gradient_checkpointing: true"),
        ("8bit" not in name, "optimizer: adamw_8bit"),
        (number(values, "micro_batch_size", 1) > 1, "micro_batch_size: 1"),
        (not is_on(values.get("load_in_4bit")), "adapter: qlora with load_in_4bit: true"),
        (True, f"a sequence_len below {number(values, 'sequence_len', 512)}"),
    ]
    return f"It may not fit. Less take:  {', '.join(text for use, text in options if use)}"


@dataclass(frozen=True)
class Steps:
    """How many steps a training has, and how that is known.

    Attributes:
        total: None where it is not known; then `how` says what is missing.
    """

    total: int | None
    how: str
    estimated: bool = False


def steps(config: Config, intact: Sequence[Checkpoint], seen: Survey | None) -> Steps:
    """The steps of the whole training: told by config or checkpoint, or reckoned from the rows."""
    known = last_step(config, intact)
    if known is not None:
        own = normalise(config.values.get("max_steps")) == known
        return Steps(known, "max_steps" if own else f"as {intact[-1].name} tells")
    if seen is None:
        return Steps(None, "the rows were not looked at")
    rows = _trained_rows(config, seen)
    if isinstance(rows, str):
        return Steps(None, rows)
    values = config.values
    micro = number(values, "micro_batch_size", 1)
    gathered = number(values, "gradient_accumulation_steps", 1)
    if together := number(values, "batch_size", 0):
        gathered = max(1, together // micro)
    epochs = normalise(values.get("num_epochs") or 1)
    if not isinstance(epochs, int | float) or epochs <= 0:
        return Steps(None, "num_epochs is no number")
    told = f"{round(rows):,} rows"
    if is_on(values.get("sample_packing")):
        if seen.packs is None or seen.mean_tokens is None:
            return Steps(None, f"how many tokens a row has is not known ({seen.unknown})")
        length = number(values, "sequence_len", 512)
        batches = max(1, math.floor(rows * seen.packs / micro))
        told += f" of about {seen.mean_tokens:.0f} tokens, packed into {length}"
    else:
        batches = math.ceil(rows / micro)
    each = math.ceil(batches / gathered)
    exact = not (is_on(values.get("sample_packing")) or seen.long.estimated)
    exact = exact and not seen.silent.estimated and seen.whole and not seen.unknown
    return Steps(max(1, math.ceil(each * epochs)), f"{told}, epochs: {epochs}", not exact)


def _trained_rows(config: Config, seen: Survey) -> float | str:
    """How many rows are trained on in an epoch, or why that is not known."""
    entries, rows = config.values.get("datasets"), 0.0
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        there = seen.entries.get(f"datasets[{index}]")
        if there is None:
            return f"the rows of {entry.get('path')} are not on this machine"
        if "[" in str(entry.get("split") or ""):
            return "split takes a part of the rows"
        rows += there / number(entry, "shards", 1)
    if not seen.rows:
        return "no row of datasets is on this machine"
    lost = seen.silent.count
    if config.values.get("excess_length_strategy") != "truncate":
        lost += seen.long.count
    if is_on(config.values.get("dataset_exact_deduplication")):
        lost += seen.duplicates.count
    rows *= max(0.0, 1 - lost / seen.rows)
    held = normalise(config.values.get("val_set_size"))
    if isinstance(held, int | float) and held > 0:
        rows -= math.ceil(rows * held) if held < 1 else held
    return rows if rows >= 1 else NO_ROW


def night(config: Config, run: Run, intact: Sequence[Checkpoint], seen: Survey | None) -> Finding:
    """How many steps there are, and how long they take at the speed of the last session."""
    found = steps(config, intact, seen)
    speed, begin = speed_of(run), max((item.step for item in intact), default=0)
    numbers: dict[str, Any] = {
        "steps": found.total,
        "estimated": found.estimated,
        "from_step": begin,
        "steps_per_second": speed,
        "seconds": None,
    }
    if found.total is None:
        if found.how == NO_ROW and seen and seen.whole:
            hint = "Lower val_set_size, or raise sequence_len."
            return Finding(Level.ERROR, Topic.STEPS, f"{NO_ROW.capitalize()}.", hint)
        return ok(Topic.STEPS, f"The number of steps is not known: {found.how}.", numbers)
    about = "About " if found.estimated else ""
    told = f"{about}{found.total:,} steps ({found.how})"
    if found.estimated:
        told += ", an estimate for one GPU"
    left = max(0, found.total - begin)
    if speed is None:
        told += ". How long they take is not known before the first of them"
    else:
        numbers["seconds"] = left / speed
        ahead = f"; {left:,} are left" if begin else ""
        told += f"{ahead}: about {units.duration(left / speed)} at the speed of the last session"
        told += f" ({1 / speed:.2g} s a step)"
    warmup = normalise(config.values.get("warmup_steps"))
    if isinstance(warmup, int) and warmup >= found.total:
        told += f". warmup_steps: {warmup}: the learning rate never gets to its full height"
        hint = f"Lower it, for example to {max(1, found.total // 20)}."
        return Finding(Level.WARNING, Topic.STEPS, f"{told}.", hint, numbers=numbers)
    return ok(Topic.STEPS, f"{told}.", numbers)


def hurting(config: Config, seen: Survey, told: Collection[str] = ()) -> Iterator[Finding]:
    """What in the data will change the result, each with its count and the first places.

    Args:
        told: places of rows that were told of as faulty, and are not told of again.
    """
    found = [*_lengths(config, seen), *_lacking(seen), *_twice(config, seen)]
    refused = seen.refused
    is_told = refused.count == len(refused.places) and set(refused.places) <= set(told)
    if refused.count and not is_told:
        found.append(_refused(seen))
    yield from found
    rows = f"{seen.rows + seen.eval_rows:,} rows"
    numbers = {"rows": seen.rows, "eval_rows": seen.eval_rows, "seconds": seen.seconds}
    if seen.unknown:
        base, why = str(config.values.get("base_model")), seen.unknown.rstrip(".")
        failed = "Error: " in why
        if failed and model_folder(base) is None and not config.values.get("tokenizer_config"):
            failed, why = False, f"base_model {base} is not on this machine"
            if not seen.rows + seen.eval_rows:
                return
        what = f"{rows} counted; which are too long is not known: {why}."
        yield Finding(Level.WARNING if failed else Level.OK, Topic.ROWS, what, numbers=numbers)
    elif not seen.whole:
        yield ok(Topic.ROWS, f"The first {rows} were looked at; time was up then.", numbers)
    elif seen.rows and not found and not refused.count:
        yield ok(Topic.ROWS, f"{rows}: none is too long, without an answer, or twice.", numbers)
    elif seen.rows:
        yield ok(Topic.ROWS, f"{rows} were looked at.", numbers)


def _lengths(config: Config, seen: Survey) -> Iterator[Finding]:
    limit = number(config.values, "sequence_len", 512)
    strategy = str(config.values.get("excess_length_strategy") or "drop").lower()
    all_lost = not (seen.long.estimated or seen.silent.estimated) and seen.rows
    lost = seen.silent.count + (0 if strategy == "truncate" else seen.long.count)
    level = Level.ERROR if all_lost and lost >= seen.rows else Level.WARNING
    if seen.long.count:
        end = {"truncate": "and cut there", "raise": "which ends the training"}
        hint = "Raise sequence_len, or shorten them."
        if strategy != "truncate":
            hint = f"{hint[:-1]}; to keep their beginning:  excess_length_strategy: truncate"
        yield _fault(
            seen.long,
            f"longer than sequence_len: {limit}, {end.get(strategy, 'and dropped')}",
            hint,
            Level.ERROR if strategy == "raise" else level,
        )
    if seen.silent.count:
        what = "without a token that counts for the loss, and dropped"
        yield _fault(seen.silent, what, _answer(config), level)


def _refused(seen: Survey) -> Finding:
    what = f"not tokenised by Axolotl ({seen.refusal})"
    hint = "Fix or remove them: the training may end there."
    every = seen.refused.count >= seen.rows
    return _fault(seen.refused, what, hint, Level.ERROR if every else Level.WARNING)


def _answer(config: Config) -> str:
    """What rows lack in which nothing counts for the loss."""
    types = {str(entry.get("type")) for _, _, entry in entries(config.values, "datasets")}
    if any(name.startswith("chat_template") for name in types):
        return "Give them a turn of a role that is trained on (assistant), or remove them."
    return "Give them an answer, or remove them."


def _lacking(seen: Survey) -> Iterator[Finding]:
    if seen.lacking.count:
        what = "without a column that other rows have, and trained on as if it were empty"
        yield _fault(seen.lacking, what, "Complete them, or remove them.")


def _twice(config: Config, seen: Survey) -> Iterator[Finding]:
    if seen.duplicates.count:
        if is_on(config.values.get("dataset_exact_deduplication")):
            what = "there twice; dataset_exact_deduplication takes them out"
            yield _fault(seen.duplicates, what, None, Level.OK)
        else:
            what = "there twice"
            if config.values.get("val_set_size"):
                what += ", and may be both trained on and evaluated"
            hint = "Remove them, or set  dataset_exact_deduplication: true"
            yield _fault(seen.duplicates, what, hint)
    if seen.shared.count:
        what = "of test_datasets that are trained on too: the eval loss will look too good"
        yield _fault(seen.shared, what, "Take them out of one of the two.")


def _fault(fault: Fault, what: str, hint: str | None, level: Level = Level.WARNING) -> Finding:
    about = "about " if fault.estimated else ""
    is_one = fault.count == 1 and not fault.estimated
    noun = "row" if is_one else "rows"
    if not what.startswith("of "):
        noun += " is" if is_one else " are"
    places = "; ".join(_shortened(fault.places))
    end = ", ..." if fault.count > len(fault.places) else "."
    numbers = {"count": fault.count, "estimated": fault.estimated, "places": fault.places}
    message = f"{about}{fault.count:,} {noun} {what}: {places}{end}"
    return Finding(level, Topic.ROWS, message[0].upper() + message[1:], hint, numbers=numbers)


def _shortened(places: Sequence[str]) -> Iterator[str]:
    """Places, each file named once."""
    last = ""
    for place in places:
        file, _, line = place.partition(", ")
        yield line if file == last and line else place
        last = file
