"""What a night will cost: memory against a card, steps, hours, and the rows that will hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.load import Config
from leviathan_train.config.survey import Fault, Survey
from leviathan_train.errors import UsageError
from leviathan_train.launch import cost
from leviathan_train.launch.disk import speed_of
from leviathan_train.launch.findings import Finding, Level, exit_status
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Status
from leviathan_train.system.files import write_json
from leviathan_train.system.gpu import Gpu
from support.bases import QWEN3_8B, hollow_base

GB = 2**30
SMALL = QWEN3_8B | {"num_hidden_layers": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hollow_base(tmp_path_factory.mktemp("bases") / "small", SMALL)


def config(**values: Any) -> Config:
    data = [{"path": "a.jsonl", "type": "alpaca"}]
    return Config(Path("a.yaml"), {"datasets": data, "sequence_len": 1000, **values})


def seen(rows: int = 1000, **more: Any) -> Survey:
    return Survey(rows=rows, entries={"datasets[0]": rows}, mean_tokens=100.0, packs=0.105, **more)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GB", 16 * GB), ("24g", 24 * GB), ("80 GiB", 80 * GB), ("16", 16 * GB), ("0.5T", 2**39)],
)
def test_a_card_is_given_as_people_write_it(text: str, size: int) -> None:
    assert cost.card_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-3G", "0", "16 apples"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        cost.card_size(text)


def test_memory_is_shown_part_by_part_and_adds_up(base: Path) -> None:
    lora = {"adapter": "lora", "lora_target_linear": True, "bf16": True}
    it = config(base_model=str(base), **lora)
    found = cost.gpu_memory(it, (), 16 * GB)
    assert (found.level, found.topic) == ("ok", "memory")
    assert "estimated" in found.message and "weights 3.0G" in found.message
    assert found.numbers is not None
    assert found.numbers["bytes"] == sum(part["bytes"] for part in found.numbers["parts"])


def test_what_does_not_fit_is_a_warning_that_names_what_takes_less(base: Path) -> None:
    lora = {"adapter": "lora", "lora_target_linear": True, "bf16": True, "micro_batch_size": 4}
    it = config(base_model=str(base), **lora)
    found = cost.gpu_memory(it, [Gpu(0, "card", 0, 4 * GB), Gpu(1, "card", 0, 80 * GB)], None)
    assert found.level == "warning" and "of 4.0G on the GPU" in found.message
    assert found.hint and "gradient_checkpointing: true, optimizer: adamw_8bit" in found.hint
    assert "micro_batch_size: 1" in found.hint


def test_memory_that_is_not_known_is_said_to_be(base: Path) -> None:
    found = cost.gpu_memory(config(base_model="org/none"), (), 16 * GB)
    assert (found.level, found.numbers) == ("ok", None)
    assert "not known" in found.message and "not on this machine" in found.message


@pytest.mark.parametrize(
    ("values", "survey", "total", "estimated"),
    [
        ({"max_steps": 77}, None, 77, False),
        ({}, seen(), 1000, False),
        ({"micro_batch_size": 3, "gradient_accumulation_steps": 4}, seen(), 84, False),
        ({"micro_batch_size": 2, "batch_size": 8, "num_epochs": 3}, seen(), 375, False),
        ({"val_set_size": 0.1}, seen(), 900, False),
        ({"val_set_size": 100}, seen(), 900, False),
        ({}, seen(long=Fault(50), silent=Fault(10)), 940, False),
        ({"excess_length_strategy": "truncate"}, seen(long=Fault(50)), 1000, False),
        ({}, seen(long=Fault(50, estimated=True)), 950, True),
        ({"dataset_exact_deduplication": True}, seen(duplicates=Fault(10)), 990, False),
        ({"sample_packing": True}, seen(), 105, True),
        ({"datasets": [{"path": "a.jsonl", "shards": 10}]}, seen(), 100, False),
    ],
)
def test_steps_follow_from_the_rows(
    values: dict[str, Any], survey: Survey | None, total: int, estimated: bool
) -> None:
    found = cost.steps(config(**values), (), survey)
    assert (found.total, found.estimated) == (total, estimated)


@pytest.mark.parametrize(
    ("values", "survey", "why"),
    [
        ({}, None, "not looked at"),
        ({"datasets": [{"path": "org/data"}] * 2}, seen(), "rows of org/data are not on"),
        ({"datasets": [{"path": "a.jsonl", "split": "train[:5%]"}]}, seen(), "split"),
        ({"val_set_size": 2000}, seen(), "no row is left"),
    ],
)
def test_steps_that_are_not_known_are_said_to_be(
    values: dict[str, Any], survey: Survey | None, why: str
) -> None:
    found = cost.steps(config(**values), (), survey)
    assert found.total is None and why in found.how


def test_hours_follow_from_the_speed_of_the_last_session(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    before = cost.night(config(), run, (), seen())
    assert "1,000 steps (1,000 rows, epochs: 1). How long they take is not known" in before.message
    session = run.open_session(Launch(cli=True))
    write_json(session.status_file, {"steps_per_second": 0.1, "step": 3})
    after = cost.night(config(), run, (), seen())
    assert "about 2h 46m at the speed of the last session (10 s a step)" in after.message
    assert after.numbers and after.numbers["seconds"] == 10_000
    assert isinstance(session.status, Status)
    write_json(session.begin_file, {"at": 1000.0, "first_step": 0})
    with_evaluations = {"steps_per_second": 0.1, "step": 20, "updated": 1400.0}
    write_json(session.status_file, with_evaluations)
    assert speed_of(run) == 20 / 400
    write_json(session.status_file, with_evaluations | {"step": 3})
    assert speed_of(run) == 0.1, "too few steps to tell"


def told(survey: Survey, **values: Any) -> list[Finding]:
    return list(cost.hurting(config(**values), survey))


LONG = Fault(93, ["a.jsonl, line 4", "a.jsonl, line 21", "b.jsonl, line 3"])


@pytest.mark.parametrize(
    ("strategy", "level", "word"),
    [
        (None, "warning", ", and dropped"),
        ("truncate", "warning", ", and cut there"),
        ("raise", "error", ", which ends the training"),
    ],
)
def test_rows_that_are_too_long_are_told_with_what_becomes_of_them(
    strategy: str | None, level: str, word: str
) -> None:
    first, last = told(seen(long=LONG), excess_length_strategy=strategy)
    assert first.level == level
    assert first.message == (
        f"93 rows are longer than sequence_len: 1000{word}: a.jsonl, line 4; line 21;"
        " b.jsonl, line 3, ..."
    )
    assert (last.level, last.topic) == ("ok", "rows")
    assert first.numbers == {"count": 93, "estimated": False, "places": LONG.places}


def test_a_count_from_some_of_the_rows_says_about() -> None:
    found = told(seen(long=Fault(1200, LONG.places, estimated=True)))
    assert found[0].message.startswith("About 1,200 rows are longer")


def test_every_other_fault_is_a_warning() -> None:
    one = Fault(1, ["a.jsonl, line 7"])
    faults: dict[str, Any] = dict.fromkeys(
        ("duplicates", "shared", "silent", "lacking", "refused"), one
    )
    found = told(seen(**faults, refusal="KeyError: 'x'"), val_set_size=0.1)
    assert [finding.level for finding in found] == ["warning"] * 5 + ["ok"]
    messages = "\n".join(finding.message for finding in found)
    assert "1 row is without a token that counts for the loss, and dropped: a.jsonl" in messages
    assert "not tokenised by Axolotl (KeyError: 'x')" in messages
    assert "1 row is there twice, and may be both trained on and evaluated" in messages
    assert "1 row of test_datasets that are trained on too" in messages
    assert exit_status(found) == 0


def test_a_row_that_was_told_of_is_not_told_of_again() -> None:
    survey = seen(refused=Fault(1, ["a.jsonl, line 7"]), refusal="KeyError: 'x'")
    (alone,) = cost.hurting(config(), survey, {"a.jsonl, line 7"})
    assert alone.level == "ok" and "were looked at" in alone.message
    assert len(list(cost.hurting(config(), survey, {"a.jsonl, line 8"}))) == 2


def test_a_chat_without_an_answer_is_told_which_turn_it_lacks() -> None:
    survey = seen(silent=Fault(1, ["a.jsonl, line 7"]))
    found = told(survey, datasets=[{"path": "a.jsonl", "type": "chat_template"}])
    assert "a turn of a role that is trained on" in str(found[0].hint)
    assert "Give them an answer" in str(told(survey)[0].hint)


def test_duplicates_that_axolotl_takes_out_are_no_fault() -> None:
    found = told(seen(duplicates=Fault(5, ["x, line 1"])), dataset_exact_deduplication=True)
    assert [finding.level for finding in found] == ["ok", "ok"]


def test_data_of_which_nothing_is_left_stops_the_run() -> None:
    found = told(seen(rows=93, long=LONG))
    assert exit_status(found) == 2


def test_rows_without_a_fault_are_one_line() -> None:
    (found,) = told(seen())
    assert found.message == "1,000 rows: none is too long, without an answer, or twice."


def test_rows_that_could_not_be_judged_say_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    unknown = "OSError: no tokenizer."
    (found,) = told(seen(unknown=unknown), base_model=str(tmp_path))
    assert found.level is Level.WARNING
    assert found.message == (
        "1,000 rows counted; which are too long is not known: OSError: no tokenizer."
    )
    (found,) = told(seen(unknown=unknown), base_model="./gone")
    assert found.level is Level.OK
    assert found.message.endswith("is not known: base_model ./gone is not on this machine.")
    assert told(seen(0, unknown=unknown), base_model="./gone") == []
