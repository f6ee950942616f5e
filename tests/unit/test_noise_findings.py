"""What a comparison says of batches and the measured gradient noise scale. Batches: 16, 32, 64, 128, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded_runs import Measured, compare_measured
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


def test_epochs_above_the_scale_before_are_counted_too(tmp_path: Path) -> None:
    # 16 / 4, 32 / 4, 64 / 99, 128 / 999, 256 / 50 and 512 / 40: of two, the upper one speaks and is not called typical.
    noise = [(4, 1), (4, 1), (99, 9), (999, 9), (50, 5), (40, 5)]
    (passed, _) = said_of_noise(compare_measured(tmp_path, {"twice": [noise]}))
    assert passed.startswith(
        "In 4 of 6 epochs, among them all from epoch 5 on, the batch of twice was above the gradient noise scale that "
        "was measured: 512 against 40 ± 5 samples in epoch 6, so that an update went 7 % as far"
    )


def test_the_last_epoch_alone_is_named_beside_those_before(tmp_path: Path) -> None:
    (passed, _) = said_of_noise(compare_measured(tmp_path, {"a": [[(4, 1), (999, 9), (999, 9), (50, 5)]]}))
    assert passed.startswith("In 2 of 4 epochs, epoch 4 among them, the batch of a was above")
    assert "128 against 50 ± 5 samples in epoch 4, so that" in passed


def test_how_many_of_the_late_epochs_passed_is_told_beside_those_before(tmp_path: Path) -> None:
    noise = [(4, 1), (999, 9), (999, 9), (999, 9), (50, 5), (50, 5), (9999, 9), (50, 5)]
    (passed, _) = said_of_noise(compare_measured(tmp_path, {"a": [noise]}))
    assert passed.startswith("In 4 of 8 epochs, among them 3 of the 4 from epoch 5 on, the batch of a was above")
    assert "512 against 50 ± 5 samples in epoch 6, a typical one, so that" in passed


def test_epochs_that_were_not_measured_are_spoken_of(tmp_path: Path) -> None:
    late: Measured = [None, (1e5, 2e5), (400, 5), (16, 5)]
    runs: dict[str, list[Measured]] = {
        "from": [late],
        "mixed": [[(4, 1), *late[1:]]],
        "below": [[None, None, (640, 5)]],
        "while": [[(4, 1), None, (640, 5), (640, 5)]],
    }
    since, mixed, _, below, at_times = said_of_noise(compare_measured(tmp_path, runs))
    assert since.startswith(
        "In epoch 4 of 4 the batch of from was above the gradient noise scale that was measured (known in 2 of 4 "
        "epochs): 128 against 16 ± 5 samples, so that"
    )
    assert mixed.startswith("In 2 of 3 measured epochs of 4, epoch 4 among them, the batch of mixed was above")
    assert below.endswith("measured: below (at most 10 % of it in the 1 of 3 epochs measured).")
    assert at_times.endswith("measured: while (in 1 of 3 measured epochs of 4, last in epoch 1).")


def test_both_exceptions_stand_together(tmp_path: Path) -> None:
    noise: Measured = [None, (4, 1), (4, 1), (4, 1), (9999, 9)]
    (passed, _) = said_of_noise(compare_measured(tmp_path, {"a": [noise]}))
    assert passed.startswith(
        "From epoch 2 of 5 on the batch of a was above the gradient noise scale that was measured (in 3 of 4 epochs; "
        "known in 4 of 5 epochs): 64 against 4 ± 1 samples in epoch 3, a typical one, so that"
    )


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
