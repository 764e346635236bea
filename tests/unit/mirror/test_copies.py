"""The plans of a mirror: what is copied, what goes, what a start fetches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan_train.checkpoints.facts import Facts
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import Seal
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.errors import UsageError
from leviathan_train.mirror import client
from leviathan_train.mirror.copies import (
    Copy,
    CopyState,
    to_copy,
    to_fetch,
    to_prune,
    to_set_aside,
)
from leviathan_train.mirror.place import place_of
from leviathan_train.run.folder import Run


def copy(
    step: int, state: CopyState = CopyState.WHOLE, sha: str = "", eval_loss: float | None = None
) -> Copy:
    facts = Facts(step, eval_loss=eval_loss, eval_step=None if eval_loss is None else step)
    seal = Seal(facts, float(step), 0.0, 1, {}, {}, {})
    return Copy(f"checkpoint-{step}", step, state, "", sha or f"sha{step}", seal, {"a": 1})


def local(step: int, state: str = "intact", eval_loss: float | None = None) -> Checkpoint:
    facts = Facts(step, eval_loss=eval_loss, eval_step=None if eval_loss is None else step)
    return Checkpoint(Path(f"checkpoint-{step}"), step, facts, state, "", 1, 0.0)  # type: ignore[arg-type]


def steps(found: list[Copy]) -> list[int]:
    return [one.step for one in found]


def test_the_newest_is_copied_first_and_what_is_there_is_left_alone() -> None:
    sealed = {10: "sha10", 20: "sha20", 30: "sha30"}
    assert to_copy(sealed, [copy(20)], None) == [30, 10]


def test_another_checkpoint_of_the_same_step_is_copied_over() -> None:
    assert to_copy({10: "new"}, [copy(10, sha="old")], None) == [10]


@pytest.mark.parametrize("state", [CopyState.PARTIAL, CopyState.DAMAGED, CopyState.SET_ASIDE])
def test_what_is_not_whole_there_is_copied_again(state: CopyState) -> None:
    assert to_copy({10: "sha10"}, [copy(10, state)], None) == [10]


def test_what_would_be_pruned_at_once_is_not_copied() -> None:
    sealed = {step: f"sha{step}" for step in (10, 20, 30)}
    assert to_copy(sealed, [], Policy(1)) == [30]
    assert to_copy(sealed, [copy(40)], Policy(1)) == []


def test_a_prune_keeps_the_newest_and_the_best() -> None:
    there = [copy(10, eval_loss=1.0), copy(20, eval_loss=2.0), copy(30), copy(40)]
    assert steps(to_prune(there, Policy(1))) == [20, 30]


def test_a_prune_takes_what_is_not_whole_only_beside_what_is() -> None:
    half = copy(20, CopyState.PARTIAL)
    assert to_prune([half], Policy(1)) == []
    assert to_prune([copy(10), half], Policy(1)) == [half]


def test_a_copy_that_was_set_aside_goes_only_if_the_run_still_has_it() -> None:
    aside = copy(30, CopyState.SET_ASIDE)
    assert to_prune([copy(10), aside], Policy(1)) == []
    assert to_prune([copy(10), aside], Policy(1), ["sha30"]) == [aside]


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(CopyState)), unique_by=lambda one: one[0]
    ),
    st.integers(1, 4),
)
def test_no_prune_takes_the_only_whole_copy(found: list[tuple[int, CopyState]], keep: int) -> None:
    there = [copy(step, state) for step, state in sorted(found)]
    whole = [one for one in there if one.state is CopyState.WHOLE]
    gone = to_prune(there, Policy(keep))
    assert whole[-keep:] == [one for one in whole[-keep:] if one not in gone]
    if not whole:
        assert gone == []


def test_a_start_leaves_the_branch_that_is_newer_than_where_it_begins() -> None:
    there = [copy(10), copy(20), copy(30), copy(40, CopyState.PARTIAL)]
    assert steps(to_set_aside(there, {10: "sha10"}, 10)) == [20, 30]
    assert steps(to_set_aside(there, {10: "sha10", 30: "sha30"}, 10)) == [20], "its own stays"
    assert steps(to_set_aside(there, {}, 0)) == [10, 20, 30]


@pytest.mark.parametrize("choice", ["ask", "auto", "latest"])
def test_a_start_fetches_what_is_newer_than_its_own_the_newest_first(choice: str) -> None:
    there = [copy(10), copy(20), copy(30), copy(40, CopyState.DAMAGED)]
    assert steps(to_fetch(choice, [local(10)], there)) == [30, 20]
    assert to_fetch(choice, [local(30)], there) == []
    assert steps(to_fetch(choice, [local(30, "damaged")], there)) == [30, 20, 10]


def test_a_start_does_not_fetch_what_the_run_has_set_aside() -> None:
    assert steps(to_fetch("auto", [local(10)], [copy(20), copy(30)], ["sha30"])) == [20]


def test_a_step_is_fetched_if_the_run_has_it_not_whole() -> None:
    there = [copy(10), copy(20)]
    assert steps(to_fetch("10", [local(20)], there)) == [10]
    assert to_fetch("20", [local(20)], there) == []
    assert to_fetch("15", [], there) == []
    assert to_fetch("never", [], there) == []


def test_the_best_of_both_sides_is_fetched() -> None:
    there = [copy(10, eval_loss=1.0), copy(20, eval_loss=2.0)]
    assert steps(to_fetch("best", [local(30, eval_loss=1.5)], there)) == [10]
    assert to_fetch("best", [local(30, eval_loss=0.5)], there) == []


def test_weights_alone_are_not_fetched_to_resume_from() -> None:
    seal = Seal(Facts(10), 0.0, 0.0, 1, {}, {}, {}, weights_only=True)
    stripped = Copy("checkpoint-10", 10, CopyState.WHOLE, "", "sha", seal, {})
    assert to_fetch("auto", [], [stripped]) == []


@pytest.mark.parametrize(
    ("option", "config", "url"),
    [
        (None, {}, None),
        (None, {"leviathan_mirror": "s3://b/p/"}, "s3://b/p"),
        ("s3://c", {"leviathan_mirror": "s3://b"}, "s3://c"),
        ("/mnt/nas", {}, "file:///mnt/nas"),
        ("rclone copy {path} r:{run}/{name}", {}, "rclone copy {path} r:{run}/{name}"),
    ],
)
def test_a_place_is_named_by_option_or_config(
    option: str | None, config: dict[str, str], url: str | None
) -> None:
    place = place_of(Run(Path("work/my-run")), config, option)
    assert (place.url if place else None) == url


@pytest.mark.parametrize("text", ["", "  ", "cp {name} x", "cp {path} {where}"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--mirror"):
        place_of(Run(Path("run")), {}, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3:/bucket/x", "Did you mean s3://bucket/x?"),
        ("sftp:host/x", "Did you mean sftp://host/x?"),
        ("file:/mnt/x", "Did you mean /mnt/x?"),
        ("s3//bucket/x", "Did you mean s3://bucket/x?"),
        ("host:/backup", "sftp://host/folder"),
        ("remote:runs", "a command with {path}"),
    ],
)
def test_a_typo_in_a_url_is_no_folder(text: str, told: str) -> None:
    with pytest.raises(UsageError, match="neither a URL nor a folder") as refused:
        place_of(Run(Path("run")), {}, text)
    assert told in str(refused.value.hint)
    assert place_of(Run(Path("run")), {}, f"./{text}")


@pytest.mark.parametrize("before", ["", "sftp:", "sftp//"])
def test_a_typo_in_a_url_shows_no_login(before: str) -> None:
    with pytest.raises(UsageError) as refused:
        place_of(Run(Path("run")), {}, f"{before}me:secret@host:/x")
    assert "secret" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("text", ["hf", "s3/runs", "memory://x", "simplecache::s3://bucket/x"])
def test_folders_with_such_names_and_what_else_fsspec_opens_are_places(text: str) -> None:
    assert place_of(Run(Path("run")), {}, text)


@pytest.mark.parametrize(
    ("text", "told"), [("s4://bucket", "s4:// is not a known protocol"), ("hf://", "no place")]
)
def test_a_url_that_leads_nowhere_is_refused_before_it_is_tried(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        place_of(Run(Path("run")), {}, text)


def test_the_run_itself_is_no_other_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the run itself"):
        place_of(Run(tmp_path / "run"), {}, str(tmp_path))
    with pytest.raises(UsageError, match="the run itself"):
        place_of(Run(tmp_path / "run"), {}, f"file://{tmp_path}/run/copies")


def test_credentials_in_a_url_are_not_shown() -> None:
    place = place_of(Run(Path("run")), {}, "sftp://me:hunter2@host/p?token=abc")
    assert place and "hunter2" not in place.shown and "abc" not in place.shown


def test_a_command_gets_its_words_quoted() -> None:
    place = place_of(Run(Path("my run")), {}, "cp -r {path} /x/{run}/{name}")
    assert place
    assert (
        place.command(Path("/a b/checkpoint-1"))
        == "cp -r '/a b/checkpoint-1' /x/'my run'/checkpoint-1"
    )


@pytest.mark.parametrize("keep", [0, -1, True, "2", 1.5])
def test_a_number_of_copies_that_keeps_nothing_is_refused(keep: object) -> None:
    with pytest.raises(UsageError, match="leviathan_mirror_keep"):
        client.policy_of({"leviathan_mirror_keep": keep})


def test_what_is_kept_there_follows_the_keys_of_the_run() -> None:
    values = {"leviathan_mirror_keep": 2, "leviathan_keep_best": 3, "leviathan_keep_every": 500}
    assert client.policy_of(values) == Policy(2, 500, 3)
    assert client.policy_of({}) is None
