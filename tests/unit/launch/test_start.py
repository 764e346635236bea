"""What a start checks, asks and plans, with a person whose answers the test gives."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.aside import set_aside
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.inputs import input_facts
from leviathan_train.config.load import Config, load_config
from leviathan_train.errors import Declined, LeviathanError, UsageError
from leviathan_train.launch import follow, start
from leviathan_train.launch.activity import Activity
from leviathan_train.launch.command import Typed
from leviathan_train.launch.confirm import ResumeAnswer, RowsAnswer
from leviathan_train.launch.machines import Layout
from leviathan_train.launch.resume import Offer
from leviathan_train.launch.start import Options, Starter
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending, Launch
from leviathan_train.system import files
from support import shapes
from support.demo import MakeConfig


@dataclass
class Scripted:
    """A person who answers as the test says, and hears everything."""

    resume: ResumeAnswer = ResumeAnswer.YES
    yes: bool = True
    rows: RowsAnswer = RowsAnswer.KEEP
    interactive: bool = True
    heard: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.heard.append(line)

    def show_offer(self, run: Run, offer: Offer) -> None:
        if offer.checkpoint:
            self.heard.append(f"found {offer.checkpoint.name}")

    def show_progress(self, now: Activity) -> None:
        pass

    def end_progress(self) -> None:
        pass

    def ask_resume(self, checkpoint: Checkpoint, found: Sequence[Checkpoint]) -> ResumeAnswer:
        self.asked.append(checkpoint.name)
        return self.resume

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.yes

    def ask_rows(self) -> RowsAnswer:
        self.asked.append("rows")
        return self.rows


TYPED = Typed(("leviathan", "train", "c.yaml", "--window", "20:00-08:00"), ("--cpu",))


def options(**more: Any) -> Options:
    return Options(**{"typed": TYPED} | more)


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> Config:
    """A config whose run is tmp_path/run, with data of its own."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 20)
    path = make_config(tmp_path, datasets=[{"path": str(data), "type": "alpaca"}])
    return load_config(path)


def add(config: Config, *steps: int, **changed: Any) -> None:
    """Checkpoints of the run, made by the config as it was with `changed` in it."""
    for step in steps:
        path = shapes.make(config.output_dir, step)
        made_by = dict(config.values) | changed
        shapes.seal(path, config=made_by, trainer={"inputs": input_facts(config)})


def steps_in(folder: Path) -> list[int]:
    return [step for step, _ in checkpoints.folders(Run(folder))]


def test_a_new_run_is_planned_without_a_question(config: Config) -> None:
    person = Scripted()
    plan = Starter(config, options(), person).plan()
    assert plan and plan.resume_from is None and not person.asked
    assert not config.output_dir.exists()


def test_yes_plans_a_resume_from_what_was_shown(config: Config) -> None:
    add(config, 10, 20)
    person = Scripted()
    plan = Starter(config, options(), person).plan()
    assert plan and plan.resume_from == config.output_dir / "checkpoint-20"
    assert f"--resume_from_checkpoint={plan.resume_from}" in plan.argv
    assert (person.asked, person.heard) == (["checkpoint-20"], ["found checkpoint-20"])


def test_no_changes_nothing(config: Config) -> None:
    add(config, 10)
    with pytest.raises(Declined, match="Nothing was changed") as raised:
        Starter(config, options(), Scripted(ResumeAnswer.NO)).plan()
    assert raised.value.exit_code == 130
    assert steps_in(config.output_dir) == [10]
    typed = "leviathan train c.yaml --window 20:00-08:00"
    assert f"{typed} --resume never -- --cpu" in str(raised.value.hint), "no option is lost"
    assert f"--set output_dir={config.output_dir}_2 -- --cpu" in str(raised.value.hint)


def test_the_check_that_is_shown_has_the_same_settings() -> None:
    words = ("leviathan", "train", "my c.yaml", "--yes", "--set", "a=1", "--set", "b=x y")
    assert Typed(words).check() == "leviathan check 'my c.yaml' --set a=1 --set 'b=x y'"


def test_delete_deletes_every_checkpoint_and_starts_over(config: Config) -> None:
    add(config, 10, 20)
    person = Scripted(ResumeAnswer.DELETE)
    plan = Starter(config, options(), person).plan()
    assert plan and plan.resume_from is None and plan.offer.newer == ()
    assert steps_in(config.output_dir) == []
    assert person.heard[-1] == "Deleted 2 checkpoints. Training starts from the base model."


@pytest.mark.parametrize("answer", [ResumeAnswer.YES, ResumeAnswer.DELETE])
def test_an_answer_to_what_is_not_there_any_more_is_refused(
    config: Config, answer: ResumeAnswer
) -> None:
    add(config, 10)

    class Slow(Scripted):
        def ask_resume(self, checkpoint: Checkpoint, found: Sequence[Checkpoint]) -> ResumeAnswer:
            add(config, 30)  # by a training that began meanwhile
            return super().ask_resume(checkpoint, found)

    with pytest.raises(LeviathanError, match="has changed since it was shown"):
        Starter(config, options(), Slow(answer)).plan()
    assert steps_in(config.output_dir) == [10, 30]


@pytest.mark.parametrize(
    ("person", "more"),
    [(Scripted(interactive=False), {}), (Scripted(), {"yes": True})],
    ids=["no terminal", "--yes"],
)
def test_without_anybody_to_ask_the_newest_is_taken(
    config: Config, person: Scripted, more: dict[str, Any]
) -> None:
    add(config, 10, 20)
    plan = Starter(config, options(**more), person).plan()
    assert plan and plan.offer.step == 20
    assert not person.asked


def test_a_dry_run_asks_nothing(config: Config) -> None:
    add(config, 10, seed=7)
    person = Scripted()
    plan = Starter(config, options(), person).plan(dry_run=True)
    assert plan and plan.offer.step == 10
    assert not person.asked


def test_a_change_that_the_checkpoint_cannot_bear_is_refused_before_any_question(
    config: Config,
) -> None:
    add(config, 10, lora_r=4)
    person = Scripted()
    with pytest.raises(UsageError, match=r"lora_r must stay as in checkpoint-10 \(lora_r was 4\)"):
        Starter(config, options(), person).plan()
    assert not person.asked


def test_a_refusal_names_where_the_value_was_given(config: Config) -> None:
    add(config, 10)
    set_so = load_config(config.path, ["lora_r=4"])
    with pytest.raises(UsageError, match=r"^--set: lora_r must stay as in checkpoint-10"):
        Starter(set_so, options(), Scripted()).plan()
    other = load_config(config.path, ["seed=1"])
    add(config, 20, lora_r=4)
    with pytest.raises(UsageError, match=rf"^{config.path}: lora_r must stay"):
        Starter(other, options(), Scripted()).plan()


def test_a_refusal_of_what_the_config_resumes_from_says_what_helps(
    config: Config, tmp_path: Path
) -> None:
    elsewhere = Config(config.path, {**config.values, "output_dir": str(tmp_path / "other")})
    add(elsewhere, 10, lora_r=4)
    named = f"resume_from_checkpoint={tmp_path / 'other/checkpoint-10'}"
    starter = Starter(load_config(config.path, [named]), options(), Scripted())
    with pytest.raises(UsageError, match="lora_r must stay as in checkpoint-10") as refused:
        starter.plan()
    hint = str(refused.value.hint)
    assert "name another checkpoint in --set: resume_from_checkpoint" in hint
    assert "--resume never" in hint and "output_dir" not in hint


def test_a_change_of_the_order_is_asked_about(config: Config) -> None:
    add(config, 10, seed=7)
    person = Scripted()
    plan = Starter(config, options(resume="latest"), person).plan()
    assert plan and person.asked == ["Resume with these changes?"]
    assert person.heard[-1].startswith("   seed: 7 -> 42: ")
    with pytest.raises(Declined):
        Starter(config, options(resume="latest"), Scripted(yes=False)).plan()
    with pytest.raises(UsageError, match="Cannot ask without a terminal") as refused:
        Starter(config, options(), Scripted(interactive=False)).plan()
    assert refused.value.hint == "Add --yes to resume, or restore the old value."
    accepted = Starter(config, options(yes=True), Scripted(interactive=False)).plan()
    assert accepted and not accepted.rebuild_rows


@pytest.mark.parametrize(
    ("answer", "rebuilt"), [(RowsAnswer.KEEP, False), (RowsAnswer.REBUILD, True)]
)
def test_a_changed_data_file_is_asked_about(
    config: Config, tmp_path: Path, answer: RowsAnswer, rebuilt: bool
) -> None:
    add(config, 10)
    with (tmp_path / "data.jsonl").open("a") as stream:
        stream.write('{"instruction": "c", "input": "", "output": "d"}\n')
    person = Scripted(rows=answer)
    plan = Starter(config, options(resume="latest"), person).plan()
    assert plan and plan.rebuild_rows is rebuilt
    assert person.asked == ["rows"]
    with pytest.raises(Declined):
        Starter(config, options(resume="latest"), Scripted(rows=RowsAnswer.NO)).plan()


def test_the_later_starts_of_a_command_ask_nothing_and_take_the_newest(config: Config) -> None:
    add(config, 10, 20, seed=7)
    person = Scripted()
    plan = Starter(config, options(resume="10"), person).plan(first=False)
    assert plan and plan.offer.step == 20
    assert not person.asked


def test_a_finished_run_is_not_planned_again(config: Config) -> None:
    add(config, 10)
    run = Run(config.output_dir)
    session = run.open_session(Launch())
    session.close(End(Ending.FINISHED, 10, None, "", 1.0, Cause.DONE))
    for path in session.path.glob("process-*.json"):
        path.unlink()
    person = Scripted()
    assert Starter(config, options(), person).plan() is None
    assert "already finished, at step 10" in person.heard[0]
    for newest in ("10", "checkpoint-10", str(config.output_dir.resolve() / "checkpoint-10")):
        assert Starter(config, options(resume=newest), Scripted()).plan() is None
    add(config, 5)
    named = config.output_dir / "checkpoint-5"
    asked = replace(config, values={**config.values, "resume_from_checkpoint": str(named)})
    plan = Starter(asked, options(), Scripted()).plan()
    assert plan and plan.resume_from == named, "what the config names is obeyed all the same"


def test_what_a_start_reads_is_read_ahead_while_the_person_thinks(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(config, 10)
    person = Scripted()
    asked_before: list[int] = []
    monkeypatch.setattr(start, "read_ahead", lambda: asked_before.append(len(person.asked)))
    starter = Starter(config, options(), person)
    starter.plan(dry_run=True)
    assert asked_before == [], "nothing will start"
    starter.plan()
    assert asked_before == [0]
    starter.plan(first=False)
    assert len(asked_before) == 2, "the next night's, too"


def test_warnings_are_told_and_an_unknown_key_is_accepted_only_with_yes(config: Config) -> None:
    path = config.path
    path.write_text(path.read_text() + "lora_rr: 1\nlora_r: 8\n")
    spoilt = load_config(path)
    with pytest.raises(UsageError, match="key lora_rr is unknown") as raised:
        Starter(spoilt, options(), Scripted()).check()
    assert "--yes" in str(raised.value.hint)
    person = Scripted()
    Starter(spoilt, options(yes=True), person).check()
    assert [line for line in person.heard if "lora_rr" in line]
    assert [line for line in person.heard if "lora_r is given more than once" in line]


@pytest.mark.parametrize(("choice", "step"), [("ask", 20), ("auto", 20), ("10", 10), ("never", 0)])
def test_a_dry_run_plans_with_what_it_would_fetch(
    config: Config, tmp_path: Path, choice: str, step: int
) -> None:
    for there in (10, 20):
        path = shapes.make(tmp_path / "there/run", there)
        inputs = {"inputs": input_facts(config)}
        shapes.seal(path, config=dict(config.values), trainer=inputs)
    asked = options(resume=choice, mirror=f"file://{tmp_path}/there")
    plan = Starter(config, asked, Scripted()).plan(dry_run=True)
    wanted = config.output_dir / f"checkpoint-{step}" if step else None
    assert plan and plan.resume_from == wanted
    assert not config.output_dir.exists()
    other = replace(config, values={**config.values, "lora_r": 99})
    if step:
        with pytest.raises(UsageError, match="lora_r must stay as in checkpoint"):
            Starter(other, asked, Scripted()).plan(dry_run=True)


def test_fewer_processes_than_asked_for_are_told(config: Config) -> None:
    person = Scripted()
    Starter(config, options(layout=Layout(1, asked=2)), person).check()
    assert [line for line in person.heard if "accelerate starts one process, not 2" in line]


def test_a_run_that_is_training_is_not_started_again(config: Config) -> None:
    Run(config.output_dir).open_session(Launch(cli=True))
    with pytest.raises(LeviathanError, match="already training"):
        Starter(config, options(), Scripted()).check()


def test_a_disk_without_room_for_one_more_checkpoint_refuses_each_start(
    config: Config, small_disk: Path
) -> None:
    config.values["output_dir"] = str(small_disk / "run")  # type: ignore[index]
    add(config, 10, 20)
    with (small_disk / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, (files.free_bytes(small_disk) or 0) - 8192)
    person = Scripted()
    starter = Starter(config, options(), person)
    for again in ({}, {"dry_run": True}, {"first": False}):
        with pytest.raises(UsageError, match="the disk would be full") as raised:
            starter.plan(**again)
        assert "leviathan checkpoints cleanup" in str(raised.value.hint)
        assert "--keep 1" in str(raised.value.hint)
    assert not person.asked


def test_a_disk_that_will_be_full_later_is_told_and_does_not_stop_a_start(
    config: Config, small_disk: Path
) -> None:
    config.values["output_dir"] = str(small_disk / "run")  # type: ignore[index]
    add(config, 10)
    saved = Run(config.output_dir).checkpoint(10)
    room = int(2.5 * sum(file.stat().st_size for file in saved.iterdir()))
    with (small_disk / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, (files.free_bytes(small_disk) or 0) - room)
    person = Scripted()
    assert Starter(config, options(), person).plan()
    assert [line for line in person.heard if "the disk would be full at step 36" in line]


PICKLES = "which can run code"


def warned(person: Scripted) -> bool:
    return any(PICKLES in line for line in person.heard)


def test_what_this_run_wrote_is_resumed_without_a_word(config: Config) -> None:
    add(config, 10)
    for choice in ("ask", "auto", "10"):
        person = Scripted()
        assert Starter(config, options(resume=choice), person).plan()
        assert not warned(person)
        assert "Resume from it?" not in person.asked


def test_a_run_begun_by_plain_axolotl_is_asked_about_once_and_goes_on_unattended(
    config: Config,
) -> None:
    path = shapes.make(config.output_dir, 10)
    adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
    (path / "adapter_config.json").write_text(json.dumps(adapter))
    person = Scripted()
    assert Starter(config, options(yes=False), person).plan()
    assert warned(person)
    assert person.asked == ["checkpoint-10"]  # one question
    person = Scripted()
    assert Starter(config, options(resume="auto"), person).plan()
    assert person.asked == ["Resume from it?"]
    with pytest.raises(Declined):
        Starter(config, options(resume="auto"), Scripted(yes=False)).plan()
    person = Scripted(interactive=False)
    assert Starter(config, options(), person).plan()
    assert warned(person)
    assert not person.asked
    # From now on it is the run's own.
    shapes.seal(path, config=dict(config.values), trainer={"inputs": input_facts(config)})
    person = Scripted()
    assert Starter(config, options(resume="auto", yes=True), person).plan()
    assert not warned(person)


def test_a_checkpoint_from_elsewhere_is_asked_about_and_may_need_yes_without_a_terminal(
    config: Config, tmp_path: Path
) -> None:
    path = shapes.make(tmp_path / "gift", 10)
    values = dict(config.values)
    shapes.seal(path, config=values, trainer={"inputs": input_facts(config)})
    chosen = options(resume=str(path))
    person = Scripted()
    assert Starter(config, chosen, person).plan()
    assert (warned(person), person.asked) == (True, ["Resume from it?"])
    with pytest.raises(Declined):
        Starter(config, chosen, Scripted(yes=False)).plan()
    person = Scripted(interactive=False)
    assert Starter(config, chosen, person).plan()  # by its own records another run wrote it
    assert warned(person)
    shutil.rmtree(tmp_path / "gift" / ".leviathan")
    with pytest.raises(UsageError, match="written by no run of leviathan") as refused:
        Starter(config, chosen, Scripted(interactive=False)).plan()
    assert "--yes" in str(refused.value.hint)
    accepted = options(resume=str(path), yes=True)
    assert Starter(config, accepted, Scripted(interactive=False)).plan()
    assert Starter(config, chosen, Scripted(interactive=False)).plan(dry_run=True)


def test_a_checkpoint_from_elsewhere_that_was_resumed_before_is_not_asked_about_again(
    config: Config, tmp_path: Path
) -> None:
    path = shapes.make(tmp_path / "gift", 10)
    shapes.seal(path, config=dict(config.values), trainer={"inputs": input_facts(config)})
    session = Run(config.output_dir).open_session(Launch(resume_from=str(path)))
    session.begin_file.write_text('{"at": 1.0, "first_step": 10}')
    session.close(End(Ending.KILLED, 10, None, "", 1.0, Cause.PERSON))
    for process in session.path.glob("process-*.json"):
        process.unlink()
    person = Scripted(interactive=False)
    assert Starter(config, options(resume=str(path)), person).plan()
    assert not warned(person)


def failed(config: Config, *, began: bool = False, existed: bool = False) -> LeviathanError:
    """The error of a start that crashes, as it leaves its records."""
    if existed:
        config.output_dir.mkdir(parents=True)
    starter = Starter(config, options(), Scripted())
    session = starter.run.open_session(Launch())
    starter.run.logs.mkdir()
    session.log.write_text("ValueError: no\n")
    (starter.run.path / "debug.log").write_text("ValueError: no\n")
    if began:
        session.begin_file.write_text('{"at": 1.0, "first_step": 0}')
    end = session.close(End(Ending.CRASHED, None, None, "ValueError:\n  no", 1.0, Cause.FAULT))
    with pytest.raises(LeviathanError) as raised:
        starter.exit_status(end)
    assert raised.value.message == "Training failed: ValueError: no"
    return raised.value


def test_a_start_that_fails_before_its_first_step_leaves_no_run(config: Config) -> None:
    hint = str(failed(config).hint)
    assert not config.output_dir.exists()
    log = Path(hint.rpartition("The whole log: ")[2])
    assert log.read_text() == "ValueError: no\n"
    log.unlink()


@pytest.mark.parametrize("why", [{"began": True}, {"existed": True}], ids=str)
def test_a_failed_run_that_holds_something_stays(config: Config, why: dict[str, bool]) -> None:
    hint = str(failed(config, **why).hint)
    assert f"The whole log: {config.output_dir}" in hint
    assert Run(config.output_dir).session()


def test_what_others_put_into_a_failed_run_stays(config: Config) -> None:
    starter = Starter(config, options(), Scripted())
    config.output_dir.mkdir(parents=True)
    (config.output_dir / "notes.txt").write_text("mine")
    session = starter.run.open_session(Launch())
    starter.run.logs.mkdir()
    session.log.write_text("ValueError: no\n")
    end = session.close(End(Ending.CRASHED, None, None, "no", 1.0, Cause.FAULT))
    with pytest.raises(LeviathanError) as raised:
        starter.exit_status(end)
    Path(str(raised.value.hint).rpartition("The whole log: ")[2]).unlink()
    assert [path.name for path in config.output_dir.iterdir()] == ["notes.txt"]


def test_the_command_to_type_next_keeps_what_was_typed_and_adds_before_the_dashes() -> None:
    assert TYPED.again("--resume", "a b") == (
        "leviathan train c.yaml --window 20:00-08:00 --resume 'a b' -- --cpu"
    )


def test_a_span_and_the_command_reach_the_record_of_the_launch(config: Config) -> None:
    typed = replace(TYPED, words=(*TYPED.words, "--set", "hf_token=abc"))
    plan = Starter(config, options(typed=typed), Scripted()).plan()
    assert plan
    session = follow.open_session(replace(plan, until=5.0, until_monotonic=7.0))
    assert (session.launch.until, session.launch.until_monotonic) == (5.0, 7.0)
    told = (*TYPED.words, "--set", "hf_token=[redacted]", "--", "--cpu")
    assert session.launch.typed == told


def test_a_superseded_branch_is_brought_back_and_the_other_set_aside(config: Config) -> None:
    add(config, 4, 8, 12)
    run = Run(config.output_dir)
    aside = set_aside(run, checkpoints.scan(run)[1:])  # as a resume from 4 does
    assert aside
    add(config, 6, 10)
    person = Scripted()
    starter = Starter(config, options(resume=str(aside / "checkpoint-12")), person)
    plan = starter.plan()
    assert plan and plan.resume_from == run.path / "checkpoint-12"
    starter.switch_branch(plan.offer)
    assert steps_in(run.path) == [8, 12]
    (other,) = run.superseded.iterdir()
    assert steps_in(other) == [4, 6, 10]
    assert all(item.intact for item in checkpoints.scan(run, checkpoints.Read.ALL))
    assert person.heard[-1] == f"Brought back from {aside.resolve()}: checkpoint-8, checkpoint-12"
    back = TYPED.again("--resume", str(other / "checkpoint-10"))
    assert f"Bring them back with:  {back}" in person.heard


def test_what_brings_a_branch_back_leaves_out_settings_that_it_does_not_bear(
    config: Config,
) -> None:
    for step in (4, 8, 12):  # as plain Axolotl leaves them, judged by their own files
        made = shapes.make(config.output_dir, step)
        adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
        (made / "adapter_config.json").write_text(json.dumps(adapter))
    kept = ("--set", "logging_steps=7", "--yes")
    typed = Typed((*TYPED.words, "--set", "max_steps=6", *kept))
    person = Scripted()
    shorter = load_config(config.path, ["max_steps=6", "logging_steps=7"])
    starter = Starter(shorter, options(resume="4", typed=typed, yes=True), person)
    plan = starter.plan()
    assert plan
    starter.switch_branch(plan.offer)
    (aside,) = Run(config.output_dir).superseded.iterdir()
    plain = Typed((*TYPED.words, *kept))
    back = plain.again("--resume", str(aside / "checkpoint-12"))
    assert f"Bring them back with:  {back}" in person.heard


def test_an_earlier_checkpoint_of_a_superseded_branch_leaves_the_later_ones(
    config: Config,
) -> None:
    add(config, 4, 8)
    run = Run(config.output_dir)
    aside = set_aside(run, checkpoints.scan(run))
    assert aside
    starter = Starter(config, options(resume=str(aside / "checkpoint-4")), Scripted())
    plan = starter.plan()
    assert plan
    starter.switch_branch(plan.offer)
    assert (steps_in(run.path), steps_in(aside)) == ([4], [8])


def test_a_superseded_checkpoint_that_the_config_names_stays_where_it_is(config: Config) -> None:
    add(config, 4)
    run = Run(config.output_dir)
    aside = set_aside(run, checkpoints.scan(run))
    assert aside
    named = load_config(config.path, [f"resume_from_checkpoint={aside / 'checkpoint-4'}"])
    plan = Starter(named, options(), Scripted()).plan()
    assert plan and not plan.offer.superseded
    assert plan.resume_from == (aside / "checkpoint-4").resolve()
