"""What an elastic launcher asks of a run before it begins."""

from __future__ import annotations

import pytest

from tests.fleet_in_threads import run_fleet
from trainer.cli.elastic import check_elastic, check_folder_is_shared
from trainer.cli.fleet import FleetError, join_again
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.environment import Launch

pytestmark = pytest.mark.unit

TORCHRUN = Launch("torchrun", 0, 2, 0, 1, is_elastic=True)
HOROVODRUN = Launch("horovodrun", 0, 2, 0, 1, is_elastic=True)


@pytest.mark.parametrize("launch", [TORCHRUN, HOROVODRUN])
def test_a_run_that_would_begin_anew_at_every_change_is_refused(launch):
    with pytest.raises(FleetError) as refused:
        check_elastic(launch, None)
    assert str(refused.value) == (
        f"{launch.launcher} is to go on when workers come or go, and would begin anew each time: add --resume auto"
    )
    check_elastic(launch, "auto")
    check_elastic(launch, "runs/a")
    check_elastic(Launch(launch.launcher, 0, 2), None)  # nobody comes or goes there


def test_a_store_that_remembers_workers_which_are_gone_is_refused():
    with pytest.raises(FleetError, match=r"cannot start workers again .* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        check_elastic(Launch("torchrun", 0, 2, 0, 1, is_elastic=True, shares_store=True), "auto")


@pytest.mark.parametrize("resume", ["auto", "the run's own"])
def test_all_workers_look_whether_they_have_the_folder_of_the_runs_and_leave_it_as_it_was(tmp_path, resume):
    folder = tmp_path / "runs"
    given = (str(folder), resume) if resume == "auto" else (str(tmp_path / "unused"), str(folder))
    if resume != "auto":
        folder.mkdir()
    run_fleet(3, lambda collective: check_folder_is_shared(*given, collective))
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_run_that_is_not_there_is_not_made(tmp_path):
    run_fleet(2, lambda collective: check_folder_is_shared("unused", str(tmp_path / "mistyped"), collective))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_whose_host_has_another_folder_there_is_named_on_all(tmp_path):
    def look(collective):
        output = tmp_path / ("elsewhere" if collective.rank == 2 else "runs")
        with pytest.raises(WorkerError) as refused:
            check_folder_is_shared(str(output), "auto", collective)
        return str(refused.value)

    assert (
        run_fleet(3, look)
        == [
            f"rank 2: {tmp_path / 'elsewhere'} is another folder than rank 0's: whoever goes on when rank 0 is lost "
            f"needs its checkpoints: set output to a folder that all hosts share"
        ]
        * 3
    )


def test_a_folder_that_cannot_be_made_is_said_on_all(tmp_path):
    (tmp_path / "file").touch()

    def look(collective):
        with pytest.raises(WorkerError, match=r"file/runs: cannot be written \(Not a directory\): choose another"):
            check_folder_is_shared(str(tmp_path / "file" / "runs"), "auto", collective)

    run_fleet(2, look)


def test_only_horovods_workers_join_again():
    with pytest.raises(AssertionError, match="only the workers of an elastic horovodrun"):
        join_again(LocalCollective())
