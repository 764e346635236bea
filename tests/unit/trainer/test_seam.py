"""The verdict on a resume, from logs made up; `bench/seam.py` tries it on real trainings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from leviathan_train.run.records import SeamWord, Verdict
from leviathan_train.trainer.seam import Seam

LAST = 200

Rate = Callable[[int], float]


def cosine(step: int) -> float:
    return 1e-3 * 0.5 * (1 + math.cos(math.pi * step / LAST))


def warmup(step: int) -> float:
    return 1e-3 * min(1.0, step / 40)


def restarts(step: int) -> float:
    return 1e-3 * 0.5 * (1 + math.cos(math.pi * (step % 50) / 50))


def drop_at_the_end(step: int) -> float:
    return 1e-3 * min(1.0, (LAST - step) / 10)


def judged(
    step: int = 100,
    *,
    every: int = 1,
    noise: float = 0.1,
    rate: Rate = cosine,
    rate_after: Rate | None = None,
    jump: float = 0.0,
    entries: int = 3,
    seed: int = 0,
    **more: Any,
) -> Verdict:
    """The verdict on a resume at `step` of a training whose loss falls from 3 towards 1."""
    dice = random.Random(seed)

    def entry(at: int, by: Rate, jump: float) -> dict[str, Any]:
        loss = 1 + 2 * math.exp(-at / 60) + dice.gauss(0, noise) + jump
        return {"step": at, "loss": loss, "learning_rate": by(at)}

    first = step - step % every
    before = [entry(at, rate, 0.0) for at in range(every, first + 1, every)]
    known = {"optimizer_steps": step, "schedule_steps": step, "expected_rate": rate(step + 1)}
    seam = Seam(step, before, **known | more)
    for number in range(entries):
        at = first + every * (number + 1)
        seam.add(entry(at, rate_after or rate, jump))
    return seam.verdict()


@pytest.mark.parametrize("rate", [cosine, warmup, restarts, drop_at_the_end])
@pytest.mark.parametrize("every", [1, 5])
def test_an_honest_resume_is_never_called_broken(rate: Rate, every: int) -> None:
    for seed in range(200):
        step = random.Random(seed).randrange(5 * every, LAST - 3 * every)
        noise = (0.01, 0.1, 0.5)[seed % 3]
        verdict = judged(step, every=every, rate=rate, noise=noise, seed=seed)
        assert verdict.word == "continuous", (seed, step, verdict)


def test_it_waits_for_three_logged_steps_on_both_sides() -> None:
    assert judged(entries=2).word == "too early"
    assert judged(step=2).word == "too early"
    assert judged(entries=3).word == "continuous"


@pytest.mark.parametrize("jump", [0.6, -0.6, 3.0])
def test_a_jump_of_the_loss_is_broken(jump: float) -> None:
    verdict = judged(jump=jump, noise=0.05)
    assert verdict.word == "broken"
    assert "adapter is of another step" in verdict.cause


def test_a_jump_after_a_change_on_purpose_is_no_fault() -> None:
    assert judged(jump=0.6, noise=0.05, changed=True).word == "continuous"


def test_noise_of_the_run_is_taken_into_account() -> None:
    assert judged(jump=0.6, noise=0.6).word == "continuous"


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        ({"optimizer_steps": 0}, "optimizer has made 0 updates instead of 100"),
        ({"schedule_steps": 0}, "schedule stands at step 0 instead of 100"),
    ],
)
def test_a_lost_state_is_told_before_a_step_is_logged(known: dict[str, Any], cause: str) -> None:
    verdict = judged(entries=0, **known)
    assert verdict.word == "broken"
    assert cause in verdict.cause


def test_an_optimizer_that_counts_nothing_is_not_accused() -> None:
    assert judged(optimizer_steps=None, schedule_steps=None).word == "continuous"


@pytest.mark.parametrize("factor", [0.1, 0.5, 10.0])
@pytest.mark.parametrize("known", [None, "from the optimizer"])
def test_a_wrong_rate_is_broken(factor: float, known: str | None) -> None:
    def wrong(step: int) -> float:
        return factor * cosine(step)

    # Where the loaded optimizer itself is wrong, the expectation taken from it is too.
    expected = wrong(101) if known else cosine(101)
    verdict = judged(rate_after=wrong, expected_rate=expected)
    assert verdict.word == "broken"
    assert "learning_rate" in verdict.cause


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_wrong_rate_is_seen_between_sparse_lines_too(factor: float) -> None:
    verdict = judged(every=5, rate_after=lambda step: factor * cosine(step), expected_rate=None)
    assert verdict.word == "broken"


def test_a_loss_that_is_no_number_is_broken() -> None:
    assert "not a number" in judged(jump=float("nan"), entries=1).cause


def test_more_gpu_memory_than_before_is_told() -> None:
    seam = Seam(3, [{"step": n, "loss": 1.0} for n in (1, 2, 3)], 3, 3, memory_before=8 << 30)
    for step in (4, 5, 6):
        seam.add({"step": step, "loss": 1.0}, memory=12 << 30)
    assert "GPU memory 8.0 -> 12.0 GiB, MORE" in seam.verdict().cause


def test_an_evaluation_is_no_logged_step() -> None:
    seam = Seam(3, [])
    seam.add({"step": 4, "eval_loss": 9.0})
    assert seam.after == []


def test_a_state_that_was_changed_by_hand_does_not_go_on_from_before() -> None:
    assert judged(edited=["adapter_config.json", "README.md"]).word == "continuous"
    verdict = judged(edited=["README.md", "adapter_model.safetensors"])
    assert verdict.word == "broken" and "adapter_model.safetensors" in verdict.cause


def test_a_fall_that_has_just_begun_is_no_fault() -> None:
    before = [6.9, 6.6, 6.3480]
    after = [6.0173, 5.9584, 5.8262]
    seam = Seam(15, [{"step": 5 * n, "loss": loss} for n, loss in enumerate(before, 1)])
    for number, loss in enumerate(after, 4):
        seam.add({"step": 5 * number, "loss": loss})
    assert seam.verdict().word is SeamWord.CONTINUOUS


@pytest.mark.parametrize(("jump", "told"), [(0.8, "above"), (-0.8, "below")])
def test_a_jump_is_told_with_its_way(jump: float, told: str) -> None:
    found = judged(noise=0.02, jump=jump)
    assert found.word is SeamWord.BROKEN and f" {told} where it was going" in found.cause
