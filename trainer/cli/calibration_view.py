"""A calibration for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.calibration.calibration import Calibration

_RESTLESS = 0.25  # spread


def print_calibration(calibration: Calibration, console: Console) -> None:
    """All that was measured: tables of micro-batches and messages, and a line for each other part."""
    table = _table("micro-batch", "forward\nms", "backward\nms", "images/s\na worker", "spread")
    for time in calibration.compute:
        both = time.forward_s + time.backward_s
        table.add_row(
            f"{time.micro_batch:,}",
            f"{1e3 * time.forward_s:.4g}",
            f"{1e3 * time.backward_s:.4g}",
            f"{time.micro_batch / both:,.0f}",
            f"± {100 * time.spread:.2g} %",
        )
    console.print(table)
    worst = max(time.spread for time in calibration.compute)
    if worst > _RESTLESS:
        console.print(
            f"note: repeats lie {100 * worst:.0f} % apart, so something else was at work here: on a quiet machine the "
            f"times say more"
        )
    print_all_reduce(calibration, console)
    if calibration.all_reduce:
        console.print(f"gradients: {100 * calibration.hidden_share:.0f} % of their all-reduce runs beside the backward")
    beside = max(0.0, 1 - calibration.input_sharing)
    console.print(f"an update besides: {1e3 * calibration.update_overhead_s:.3g} ms")
    console.print(
        f"input by itself: {calibration.input_images_per_s:,.0f} images/s a worker and "
        f"{1e3 * calibration.input_s_per_batch:.3g} ms a batch; {100 * beside:.0f} % of it or of the work (the "
        f"shorter) is done beside the other"
    )
    console.print(
        f"evaluation: {1e3 * calibration.evaluation_s_per_image:.3g} ms an image; an epoch besides: "
        f"{1e3 * calibration.epoch_s:.3g} ms"
    )
    console.print(f"largest micro-batch: {calibration.max_micro_batch:,} (fits into memory, and is of use to the run)")


def print_all_reduce(calibration: Calibration, console: Console) -> None:
    """Every message that was measured; nothing where there was nobody to send to."""
    if not calibration.all_reduce:
        return
    table = _table("workers", "nodes", "all-reduce\nbytes", "\nms", "\nGB/s")
    for time in calibration.all_reduce:
        is_gradient = time.nbytes == calibration.gradient_bytes
        table.add_row(
            f"{time.workers:,}",
            f"{time.nodes:,}",
            f"{'gradient: ' if is_gradient else ''}{time.nbytes:,}",
            f"{1e3 * time.seconds:.4g}",
            f"{time.nbytes / time.seconds / 1e9:.3g}",
        )
    console.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
