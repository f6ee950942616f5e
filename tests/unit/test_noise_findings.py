"""What a comparison says of batches and the measured gradient noise scale. Batches: 16, 32, 64, 128, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded_runs import compare_measured
from trainer.report.measured_noise import measured_epochs, passed_from
from trainer.report.report import Report

pytestmark = pytest.mark.unit


def said_of_noise(report: Report) -> tuple[str, ...]:
    return tuple(finding for finding in report.findings if "gradient noise scale" in finding)


def test_a_batch_that_passed_the_scale_is_told_with_what_could_be_changed(tmp_path: Path) -> None:
    # From epoch 3 on 64 / 40, 128 / 38, 256 / 64 and 512 / 1000: the upper one of the two in the middle is 128 / 38.
    noise = [(40, 4), (40, 4), (40, 4), (38, 5), (64, 4), (1000, 10)]
    passed, still_right = said_of_noise(compare_measured(tmp_path, {"grow": [noise]}))
    assert passed == (
        "From epoch 3 of 6 on the batch of grow was above the gradient noise scale that was measured (in 3 of 4 "
        "epochs): 128 against 38 ± 5 samples in epoch 4, a typical one, so that an update went 23 % as far as its "
        "samples would have gone in small batches. With schedule.limits.max_global_batch=38, or drops by lr from there "
        "on, lr would fall instead: the same SGD noise from as many samples, in more updates that are each worth more "
        "of their cost."
    )  # 1 / (1 + 128 / 38) = 0.229
    assert "can still be right where workers would stand idle otherwise" in still_right


def test_the_reference_s_own_batch_is_not_to_be_had_by_another_drop(tmp_path: Path) -> None:
    (passed, _) = said_of_noise(compare_measured(tmp_path, {"one": [[(4, 1)]]}))
    assert passed.startswith(
        "In epoch 1 of 1 the batch of one was above the gradient noise scale that was measured: 16 "
    )
    assert "16 against 4 ± 1 samples, so that an update went 20 % as far" in passed
    assert "With schedule.limits.max_global_batch=4 lr would fall instead" in passed


def test_under_adascale_no_limit_is_advised(tmp_path: Path) -> None:
    (passed, _) = said_of_noise(
        compare_measured(tmp_path, {"ada": [[(4, 1), (4, 1)]]}, **{"schedule.policy": "adascale"})
    )
    assert passed.endswith("as far as its samples would have gone in small batches.")


def test_a_batch_that_stayed_below_is_one_short_sentence_for_all(tmp_path: Path) -> None:
    report = compare_measured(tmp_path, {"a": [[(100, 5), (64, 5)]], "b": [[(64, 5), (8000, 5)]], "c": [[(4000, 5)]]})
    assert said_of_noise(report) == (
        "The batch stayed below the gradient noise scale that was measured: a (at most 50 % of it), b (at most 25 % of "
        "it) and c (at most 0.4 % of it).",
    )


def test_within_two_errors_the_batch_has_not_passed(tmp_path: Path) -> None:
    (finding,) = said_of_noise(compare_measured(tmp_path, {"near": [[(16, 1), (20, 6)]]}))
    assert finding == (
        "The batch was never clearly above the gradient noise scale that was measured: near (at most 160 % of it)."
    )
    (passed, _) = said_of_noise(compare_measured(tmp_path / "past", {"past": [[(16, 1), (20, 5.9)]]}))  # 32 > 20 + 11.8
    assert passed.startswith("In epoch 2 of 2 the batch of past was above")


def test_a_batch_that_was_above_only_for_a_while_is_no_from_then_on(tmp_path: Path) -> None:
    noise = [(8, 1), (99, 1), (99, 1), (999, 1), (9999, 1)]
    (finding,) = said_of_noise(compare_measured(tmp_path, {"early": [noise]}))
    assert finding.endswith("was at times above the gradient noise scale that was measured: early (in 1 of 5 epochs, "
                            "last in epoch 1).")  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "place"),
    [("", None), ("0000", None), ("0111", 1), ("1000", None), ("1000111", 4), ("1110", 0), ("1011", 0), ("1001", 3)],
)
def test_it_counts_from_the_epoch_since_which_three_of_four_passed(
    tmp_path: Path, passed: str, place: int | None
) -> None:
    if not passed:
        assert passed_from(()) is None
        return
    noise = [((2.0 if above == "1" else 1e6), 0.1) for above in passed]
    group = compare_measured(tmp_path, {"grow": [noise]}).groups[0]
    assert passed_from(measured_epochs(group)) == place


def test_over_seeds_the_means_are_held_against_each_other(tmp_path: Path) -> None:
    # 16 against a mean of 14 with an error of sqrt(2) 1.2 / 2 = 0.85: each seed alone, 17 and 11, would not agree.
    (finding, _) = said_of_noise(compare_measured(tmp_path, {"grow": [[(17, 1.2)], [(11, 1.2)]]}))
    assert "16 against 14 ± 1 samples" in finding
