"""How long an update of ResNet-50 takes on 1 to 4,096 workers, by the step-time model: what nobody has to measure on.

    python -m benchmarks.fleet_prediction
    python -m benchmarks.fleet_prediction --images-per-s 3000 --micro-batch 256 --gbit 400 --wire-bytes 2

One worker's images/s are stated, not measured: the default is that of a V100 of NCSA's HAL, four to a node (2 workers,
90 epochs at micro-batch 208 in 1236.9 minutes, as in tests/unit/test_step_time.py). So are the links: latency and
bandwidth within a node and between nodes, which all workers of a node share; the faster of ring and tree, as NCCL.
"""

from __future__ import annotations

import argparse

from benchmarks.side_by_side import table
from trainer.rule import BatchPlan
from trainer.rule.all_reduce import AllReduceTime, Fabric, Link, all_reduce_seconds
from trainer.rule.step_time import ComputeTime, StepTimes, predict_update

PARAMETERS = 25_557_032
FLEETS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
FORWARD = 1 / 3  # of a micro-batch's time: a backward computes two products for the forward's one
WITHIN = Link(5e-6, 1 / 100e9)  # NVLink, with some room
BETWEEN_LATENCY_S = 10e-6


def step_times(micro_batch: int, images_per_s: float, gbit: float, wire_bytes: int, hidden_share: float) -> StepTimes:
    """The model's input from stated numbers; gbit: of a node's link."""
    compute = tuple(
        ComputeTime(size, FORWARD * size / images_per_s, (1 - FORWARD) * size / images_per_s)
        for size in (micro_batch // 2, micro_batch)
    )
    nbytes = PARAMETERS * wire_bytes
    fabric = Fabric(WITHIN, Link(BETWEEN_LATENCY_S, 8 / (gbit * 1e9)), "fastest")
    return StepTimes(
        compute=compute,
        update_overhead_s=0.0,
        gradient_bytes=nbytes,
        fabric=fabric,
        all_reduce=(AllReduceTime(2, 1, nbytes, all_reduce_seconds(nbytes, 2, 1, fabric)),),
        hidden_share=hidden_share,
        input_s_per_batch=0.0,
        input_images_per_s=1e9,
        input_sharing=0.0,
        evaluation_s_per_image=0.0,
        validation_size=0,
        epoch_s=0.0,
        workers=2,
        nodes=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batch", type=int, default=208)
    parser.add_argument("--images-per-s", type=float, default=777.0, help="of one worker by itself [%(default)s]")
    parser.add_argument("--per-node", type=int, default=8, help="workers of a node [%(default)s]")
    parser.add_argument("--gbit", default="25,100,400", help="of a node's link, in Gbit/s [%(default)s]")
    parser.add_argument("--wire-bytes", type=int, default=4, help="of a gradient's element [%(default)s]")
    parser.add_argument("--hidden", type=float, default=0.9, help="share that an overlapped sum hides [%(default)s]")
    args = parser.parse_args()
    for gbit in map(float, args.gbit.split(",")):
        print(f"\n{gbit:g} Gbit/s a node of {args.per_node}; {args.images_per_s:g} images/s a worker\n")
        shown, hidden = (
            step_times(args.micro_batch, args.images_per_s, gbit, args.wire_bytes, share)
            for share in (0.0, args.hidden)
        )
        rows = []
        for workers in FLEETS:
            plan, nodes = BatchPlan(args.micro_batch, 1, workers), -(-workers // args.per_node)
            after, beside = predict_update(plan, shown, nodes), predict_update(plan, hidden, nodes)
            rows.append(
                (
                    f"{workers:,}",
                    f"{plan.global_batch:,}",
                    f"{1000 * after.compute_s:.0f}",
                    f"{1000 * after.all_reduce_s:.1f}",
                    f"{1000 * beside.all_reduce_s:.1f}",
                    f"{1000 * after.seconds:.0f}, {1000 * beside.seconds:.0f}",
                    f"{after.compute_s / after.seconds:.0%}, {beside.compute_s / beside.seconds:.0%}",
                )
            )
        headings = ["workers", "batch", "compute, ms", "sum after the backward, ms", "seen beside it, ms"]
        table([*headings, "update, ms (after, beside)", "of linear (after, beside)"], rows)


if __name__ == "__main__":
    main()
