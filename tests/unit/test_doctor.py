"""What `trainer doctor` makes of what it sees: present, lacking, broken."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import pytest

from trainer.cli.doctor import print_findings
from trainer.doctor.ask import Answer, answer_of
from trainer.doctor.finding import Finding, can_train
from trainer.doctor.libraries import (
    dali_findings,
    gpu_finding,
    horovod_finding,
    mlflow_finding,
    nccl_finding,
    python_finding,
    torch_finding,
)
from trainer.doctor.machine import (
    bfloat16_finding,
    cgroup_cores,
    cgroup_memory_bytes,
    cores_finding,
    memory_finding,
    open_files_finding,
    output_finding,
    shared_memory_finding,
    ssh_finding,
)

pytestmark = pytest.mark.unit

GIB = 2**30
CPU_TORCH = Answer({"version": "2.13.0+cpu", "cuda": None, "gpus": [], "nccl": None})
CUDA_TORCH_WITHOUT_GPU = Answer({"version": "2.13.0", "cuda": "13.0", "gpus": [], "nccl": "2.29.7"})
GPU_TORCH = Answer({"version": "2.13.0", "cuda": "13.0", "gpus": [["H100", 79.1]], "nccl": "2.29.7"})
BROKEN = Answer(failure="ImportError: libcudart.so.13: cannot open shared object file")


def horovod(version: str = "0.28.1+mended.g3327ec03", operations: tuple[str, ...] = ("Gloo",)) -> Answer:
    return Answer({"version": version, "operations": list(operations)})


def dali(cpu: str = "", gpu: str = "", jpeg_engine: str = "") -> Answer:
    return Answer({"version": "2.4.0", "cpu": cpu, "gpu": gpu, "jpeg_engine": jpeg_engine})


@pytest.mark.parametrize(
    ("finding", "verdict", "seen"),
    [
        (python_finding((3, 10, 0)), "ok", "3.10.0"),
        (python_finding((3, 9, 18)), "missing", "3.9.18"),
        (torch_finding(CPU_TORCH), "ok", "2.13.0+cpu, CPU"),
        (torch_finding(GPU_TORCH), "ok", "2.13.0, CUDA 13.0"),
        (torch_finding(BROKEN), "missing", "libcudart"),
        (gpu_finding(CPU_TORCH), "warn", "CPU build"),
        (gpu_finding(CUDA_TORCH_WITHOUT_GPU), "warn", "none that torch can use"),
        (gpu_finding(GPU_TORCH), "ok", "H100 (79.1 GiB)"),
        (gpu_finding(BROKEN), "warn", "not known without torch"),
        (nccl_finding(CPU_TORCH), "ok", "not needed"),
        (nccl_finding(GPU_TORCH), "ok", "2.29.7"),
        (nccl_finding(Answer(GPU_TORCH.facts | {"nccl": None})), "warn", "built without it"),
        (horovod_finding(horovod(), CPU_TORCH), "ok", "mended build"),
        (horovod_finding(horovod("0.28.1"), CPU_TORCH), "warn", "stock build"),
        (horovod_finding(horovod(), GPU_TORCH), "warn", "operations: Gloo"),
        (horovod_finding(horovod(operations=("Gloo", "NCCL")), GPU_TORCH), "ok", "operations: Gloo, NCCL"),
        (horovod_finding(BROKEN, CPU_TORCH), "missing", "libcudart"),
        (mlflow_finding(Answer({"version": "3.17.2"})), "ok", "3.17.2"),
        (mlflow_finding(BROKEN), "missing", "libcudart"),
        (cores_finding(8, None), "ok", "8"),
        (cores_finding(64, 1.5), "warn", "1.5 of 64 (control group)"),
        (cores_finding(2, 16.0), "ok", "2"),
        (bfloat16_finding(True), "ok", "computes it"),
        (bfloat16_finding(False), "ok", "emulated"),
        (memory_finding(8 * GIB, None), "ok", "8.0 GiB"),
        (memory_finding(256 * GIB, 2 * GIB), "warn", "2.0 GiB (control group)"),
        (shared_memory_finding(None), "missing", "not there"),
        (shared_memory_finding(64 * 2**20), "warn", "0.1 GiB free"),
        (shared_memory_finding(8 * GIB), "ok", "8.0 GiB free"),
        (open_files_finding(256), "warn", "256"),
        (open_files_finding(1024), "ok", "1024"),
        (open_files_finding(resource.RLIM_INFINITY), "ok", "unlimited"),
        (ssh_finding("/usr/bin/ssh"), "ok", "/usr/bin/ssh"),
        (ssh_finding(None), "warn", "no client"),
    ],
    ids=lambda value: value.name if isinstance(value, Finding) else str(value),
)
def test_each_finding_says_what_was_seen_and_what_to_do_about_a_lack(finding, verdict, seen):
    assert finding.verdict == verdict
    assert seen in finding.seen
    assert (finding.advice != "") == (verdict != "ok")


def test_a_finding_of_a_lack_without_advice_cannot_be_made():
    with pytest.raises(AssertionError, match="told what to do"):
        Finding("ssh", "warn", "no client")


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def test_decoding_on_the_gpu_is_looked_at_only_where_there_is_one():
    no_gpu = dali(gpu="RuntimeError: no CUDA device")
    assert verdicts(dali_findings(no_gpu, CPU_TORCH)) == {"DALI": "ok", "JPEG on the CPU": "ok"}
    assert verdicts(dali_findings(no_gpu, GPU_TORCH))["JPEG on the GPU"] == "warn"


@pytest.mark.parametrize(("failure", "seen"), [("", "with a JPEG engine"), ("none", "without a JPEG engine")])
def test_a_gpu_says_whether_it_has_a_jpeg_engine(failure, seen):
    (finding,) = (f for f in dali_findings(dali(jpeg_engine=failure), GPU_TORCH) if f.name == "JPEG on the GPU")
    assert seen in finding.seen


@pytest.mark.parametrize("lack", [torch_finding(BROKEN), *dali_findings(BROKEN, CPU_TORCH), python_finding((3, 9, 0))])
def test_one_cannot_train_without_the_essential(lack):
    assert not can_train([python_finding((3, 11, 7)), lack])


@pytest.mark.parametrize("lack", [horovod_finding(BROKEN, CPU_TORCH), mlflow_finding(BROKEN), ssh_finding(None)])
def test_one_can_train_without_the_rest(lack):
    assert can_train([python_finding((3, 11, 7)), lack])


def control_group(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = {"cpu.max": "150000 100000\n", "memory.max": "2147483648\n"}
VERSION_1 = {
    "cpu/cpu.cfs_quota_us": "150000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "2147483648\n",
}


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
def test_limits_of_a_control_group_are_read(tmp_path, files):
    cgroups = control_group(tmp_path, files)
    assert cgroup_cores(cgroups) == 1.5
    assert cgroup_memory_bytes(cgroups) == 2 * GIB


UNLIMITED_2 = {"cpu.max": "max 100000\n", "memory.max": "max\n"}
UNLIMITED_1 = {
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
}


@pytest.mark.parametrize("files", [UNLIMITED_2, UNLIMITED_1, {}], ids=["version 2", "version 1", "none"])
def test_a_control_group_without_limits_sets_none(tmp_path, files):
    cgroups = control_group(tmp_path, files)
    assert cgroup_cores(cgroups) is None
    assert cgroup_memory_bytes(cgroups) is None


def test_an_output_folder_that_can_be_made_is_enough(tmp_path):
    assert output_finding(tmp_path / "runs" / "deeper").verdict in ("ok", "warn")  # warn: a full disk
    assert not (tmp_path / "runs").exists(), "looking makes nothing"


def test_an_output_folder_under_a_file_is_missing(tmp_path):
    (tmp_path / "runs").write_text("a file")
    finding = output_finding(tmp_path / "runs")
    assert (finding.verdict, finding.essential) == ("missing", True)


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print('noise'); print('{\"version\": \"1\"}')", Answer({"version": "1"})),
        ("raise ImportError('built for another torch')", Answer(failure="ImportError: built for another torch")),
        ("import os; os.abort()", Answer(failure="ended by SIGABRT")),
        ("import time; time.sleep(60)", Answer(failure="no answer within 2 s")),
    ],
    ids=["answers", "cannot be imported", "crashes", "hangs"],
)
def test_a_library_that_fails_crashes_or_hangs_is_an_answer(code, answer):
    assert answer_of([sys.executable, "-c", code], timeout_s=2) == answer


def test_the_table_names_every_finding_and_the_advice(capsys):
    print_findings([python_finding((3, 11, 7)), ssh_finding(None), torch_finding(BROKEN)])
    said = " ".join(capsys.readouterr().out.split())
    for text in ("3.11.7", "no client", "apt-get install openssh-client", "Training is not possible yet"):
        assert text in said


def test_json_and_exit_code_say_whether_one_can_train(monkeypatch, capsys, tmp_path):
    from trainer.cli import doctor

    args = argparse.Namespace(output=tmp_path, json=True)
    for finding, code in ((torch_finding(CPU_TORCH), 0), (torch_finding(BROKEN), 1)):
        monkeypatch.setattr("trainer.doctor.examine.examine", lambda output, finding=finding: [finding])
        assert doctor.run(args) == code
        document = json.loads(capsys.readouterr().out)
        assert document["can_train"] is (code == 0)
        assert document["findings"][0]["name"] == "torch"
