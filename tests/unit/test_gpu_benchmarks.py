"""What the GPU benchmarks work out, from what a GPU would have said."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_all import parts
from benchmarks.gpu_chip import bf16_peak_tflops, flops_per_image, percentages, share_of_peak
from benchmarks.gpu_compare import cells_or_why_not
from benchmarks.gpu_trace import Profile, covered, summary
from trainer.cli.compiler import CompileError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),  # a seventh of the chip
        ("NVIDIA GeForce GTX 1080", None),
        ("cpu", None),
    ],
)
def test_the_peak_is_that_of_the_very_chip_or_unknown(name, tflops):
    assert bf16_peak_tflops(name) == tflops


def test_resnet_50_takes_the_operations_that_are_published():
    forward = 4.089e9  # multiply-adds at 224 x 224 (He et al., arXiv:1512.03385, with the stride in the 3 x 3)
    input_gradient_nobody_needs = 112 * 112 * 64 * 3 * 7 * 7  # multiply-adds: of the first convolution
    assert flops_per_image("resnet-50", 1000, 224) == pytest.approx(
        2 * (3 * forward - input_gradient_nobody_needs), rel=1e-3
    )


def test_where_the_chip_is_not_known_neither_is_the_share_of_its_peak():
    assert share_of_peak(1000.0, 10**9, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("12\n 100\n0\n", [12, 100, 0]),
        ("[N/A]\n[N/A]\n", []),
        ('Field "utilization.jpeg" is not a valid field to query.\n', []),
        ("", []),
    ],
)
def test_nvidia_smi_is_taken_at_its_numbers_only(said, numbers):
    assert percentages(said) == numbers


def test_kernels_that_overlap_cover_their_time_once():
    assert covered([(5, 7), (0, 4), (1, 2), (3, 5)]) == 7
    assert covered([(0, 1), (9, 10)]) == 2


def event(cat, name, ts, dur, tid=1):
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid}


def test_a_trace_tells_how_idle_the_gpu_was_and_how_often_the_loop_waited():
    trace = [
        {"ph": "M", "name": "process_name", "ts": 0, "pid": 1},
        event("cuda_runtime", "cudaDeviceSynchronize", 0, 5),  # the profiler's, before the first launch
        event("cuda_runtime", "cudaLaunchKernel", 10, 1),
        event("kernel", "conv", 20, 40, tid=7),
        event("gpu_memcpy", "Memcpy HtoD", 60, 20, tid=7),  # no kernel: idle
        event("gpu_user_annotation", "Optimizer.step", 20, 80, tid=7),  # a mark, not work
        event("cuda_runtime", "cudaStreamSynchronize", 30, 1),
        event("cuda_runtime", "cudaMemcpyAsync", 32, 1),
        event("cuda_runtime", "cudaStreamSynchronize", 33, 1, tid=2),  # a thread of DALI
        event("cuda_runtime", "cudaMemcpy", 34, 1),
        event("cuda_driver", "cuLaunchKernelEx", 40, 1),
        event("kernel", "step", 80, 20, tid=7),
        event("cuda_runtime", "cudaDeviceSynchronize", 90, 20),  # the window's end
    ]
    assert summary(trace, updates=2) == Profile(idle=0.25, waits=1.0)  # 20 of 80; two waits in two updates


def test_a_trace_without_kernels_tells_nothing():
    assert summary([event("cpu_op", "aten::add", 0, 1)], updates=1) == Profile(None, None)


def test_where_no_call_is_known_to_be_the_loops_own_its_waits_are_not_known():
    trace = [event("cuda_runtime", "cudaLaunchKernel", 10, 1, tid=2), event("kernel", "conv", 20, 40, tid=7)]
    assert summary(trace, updates=1) == Profile(idle=0.0, waits=None)


def test_a_setting_that_cannot_be_measured_says_why_in_its_row_and_costs_no_other():
    def failing():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory | tried\nmore")

    def without_compiler():
        raise CompileError("no compiler")

    assert cells_or_why_not(failing, 3) == ["CUDA out of memory / tried", "-", "-"]
    assert cells_or_why_not(without_compiler, 2) == ["no compiler", "-"]
    assert cells_or_why_not(lambda: ["1", "2"], 2) == ["1", "2"]


def test_folders_reach_a_part_before_options_that_take_many_values(tmp_path):
    for gpus in (0, 1, 2):
        for part in parts(tmp_path, tmp_path, gpus):
            assert all(word != str(tmp_path) for word in part.arguments[2:])
            assert part.arguments[part.arguments.index("--device") + 1] == ("cuda" if gpus else "cpu")


def test_the_sum_of_gradients_is_measured_where_there_is_somebody_to_add_to(tmp_path):
    names = [[part.name for part in parts(tmp_path, None, gpus)] for gpus in (1, 2)]
    assert "gradients" not in names[0]
    assert "gradients" in names[1]
