#!/usr/bin/env python3
"""Make a tiny Llama, its tokenizer and a small data set, to train on without a GPU or a hub.

    python scripts/make_demo.py --out work/demo

writes work/demo/data.jsonl (Alpaca rows) and work/demo/model. What is there already is
kept. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import calendar
import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

ROWS = 640
VOCABULARY = 512

Row = tuple[str, str, str]  # instruction, input, output

CAPITALS = {
    "Austria": "Vienna",
    "Brazil": "Brasilia",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Greece": "Athens",
    "India": "New Delhi",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Spain": "Madrid",
    "Thailand": "Bangkok",
}
DEFINITIONS = {
    "anchor": "a heavy hook that holds a ship in its place",
    "atlas": "a book of maps",
    "compass": "an instrument that shows where north is",
    "delta": "the land at a river's mouth, built from what the river carries",
    "estuary": "the wide part of a river where it meets the sea",
    "fathom": "a measure of depth of six feet",
    "glacier": "a slow river of ice",
    "harbour": "a sheltered place where ships lie safely",
    "kelp": "a large brown seaweed",
    "lagoon": "shallow water cut off from the sea by a bank or a reef",
    "leviathan": "a sea monster, or anything of enormous size",
    "mast": "the tall pole that carries a ship's sails",
    "plankton": "tiny living things that drift in water",
    "reef": "a ridge of rock or coral just below the surface",
    "rudder": "the blade at the stern that steers a ship",
    "sextant": "an instrument that measures the height of a star above the horizon",
    "strait": "a narrow passage of water between two seas",
    "tide": "the daily rise and fall of the sea",
}
OPPOSITES = {
    "calm": "stormy",
    "deep": "shallow",
    "early": "late",
    "empty": "full",
    "fast": "slow",
    "heavy": "light",
    "high": "low",
    "near": "far",
    "rough": "smooth",
    "wide": "narrow",
}
# From, to, factor; the factors keep every result exact.
UNITS = [
    ("kilometres", "metres", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("fathoms", "feet", 6),
]
NAMES = ["Ada", "Bela", "Chen", "Dina", "Emil", "Fatou", "Goran", "Hana", "Ines", "Jonas"]
GOODS = ["apples", "books", "coins", "lamps", "maps", "ropes", "shells", "stamps"]


def _arithmetic(rng: random.Random) -> Row:
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    sign, result = rng.choice([("+", a + b), ("-", a - b)])
    ask = rng.choice(["What is {}?", "Calculate {}.", "Work out {}."])
    return ask.format(f"{a} {sign} {b}"), "", f"{a} {sign} {b} = {result}"


def _story(rng: random.Random) -> Row:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    have, gain = rng.randint(2, 40), rng.randint(2, 40)
    text = f"{name} has {have} {goods} and buys {gain} more."
    total = f"{have} + {gain} = {have + gain}. {name} now has {have + gain} {goods}."
    return f"How many {goods} does {name} have now?", text, total


def _weekday(rng: random.Random) -> Row:
    day = date(2020, 1, 1) + timedelta(days=rng.randrange(3650))
    name = calendar.day_name[day.weekday()]
    return "Which day of the week is this date?", day.isoformat(), f"{day.isoformat()} is a {name}."


def _date_format(rng: random.Random) -> Row:
    day = date(2020, 1, 1) + timedelta(days=rng.randrange(3650))
    written = f"{calendar.month_name[day.month]} {day.day}, {day.year}"
    return "Write the date as year-month-day.", written, day.isoformat()


def _units(rng: random.Random) -> Row:
    source, target, factor = rng.choice(UNITS)
    count = rng.randint(2, 60)
    ask = rng.choice(["Convert {n} {a} to {b}.", "How many {b} are {n} {a}?"])
    answer = f"{count} {source} are {count * factor} {target}."
    return ask.format(n=count, a=source, b=target), "", answer


def _definition(rng: random.Random) -> Row:
    word, meaning = rng.choice(list(DEFINITIONS.items()))
    shape = rng.choice(["What does the word '{}' mean?", "Define '{}'.", "Explain: {}."])
    article = "An" if word[0] in "aeiou" else "A"
    return shape.format(word), "", f"{article} {word} is {meaning}."


def _capital(rng: random.Random) -> Row:
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.5:
        return f"What is the capital of {country}?", "", f"The capital of {country} is {city}."
    return f"{city} is the capital of which country?", "", f"{city} is the capital of {country}."


def _opposite(rng: random.Random) -> Row:
    word, other = rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, other = other, word
    return "Give the opposite of the word.", word, other


def _sorted(rng: random.Random) -> Row:
    numbers = rng.sample(range(1, 100), rng.randint(3, 6))
    ask = "Sort the numbers from small to large."
    return ask, ", ".join(map(str, numbers)), ", ".join(map(str, sorted(numbers)))


def _letters(rng: random.Random) -> Row:
    word = rng.choice([*DEFINITIONS, *OPPOSITES, *GOODS])
    if rng.random() < 0.5:
        return "Spell the word backwards.", word, word[::-1]
    return "Write the word in capital letters.", word, word.upper()


TASKS: list[Callable[[random.Random], Row]] = [
    _arithmetic,
    _story,
    _weekday,
    _date_format,
    _units,
    _definition,
    _capital,
    _opposite,
    _sorted,
    _letters,
]


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """`count` Alpaca rows of mixed tasks, no two the same."""
    rng = random.Random(seed)
    rows: dict[Row, None] = {}  # a set that keeps its order
    while len(rows) < count:
        rows[rng.choice(TASKS)(rng)] = None
    return [{"instruction": a, "input": b, "output": c} for a, b, c in rows]


def make_data(path: Path, count: int, seed: int) -> bool:
    """Write the data set; False if it is there already."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = (json.dumps(row) + "\n" for row in make_rows(count, seed))
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
    return True


def make_model(folder: Path, data: Path, seed: int) -> bool:
    """Write a Llama of 0.2 million weights with a tokenizer trained on `data`.

    Returns False if it is there already.
    """
    if folder.exists():
        return False
    # Here, not above: they take seconds, and a second start does not need them.
    logging.disable(logging.WARNING)  # torch and torchao tell of GPU parts that are not here
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for row in rows for text in row.values()), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=1024,
    )

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.1,  # at the usual 0.02 an adapter hardly moves so small a model
            bos_token_id=fast.bos_token_id,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )

    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        fast.save_pretrained(temporary)
        model.save_pretrained(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return True


def make_demo(out: Path, *, rows: int = ROWS, seed: int = 0) -> None:
    """Make what is missing of `out`/data.jsonl and `out`/model."""
    data, model = out / "data.jsonl", out / "model"
    out.mkdir(parents=True, exist_ok=True)
    print(f"{data}: {'made' if make_data(data, rows, seed) else 'there already'}")
    print(f"{model}: {'made' if make_model(model, data, seed) else 'there already'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make a tiny model and a small data set to train on without a GPU or a hub.",
    )
    parser.add_argument("--out", type=Path, default=Path("work/demo"), metavar="DIR")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="rows of data (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_demo(options.out, rows=options.rows, seed=options.seed)


if __name__ == "__main__":
    main()
