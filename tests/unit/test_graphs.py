"""Which graph is built for which device. The GPU's are put together here without running: DALI refuses what it does not
know when a graph is written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Placement, centre_graph, place, size_for_engines, training_graph

pytestmark = pytest.mark.unit

GPU = torch.device("cuda", 3)


@pytest.mark.parametrize("make", [training_graph, centre_graph])
@pytest.mark.parametrize("decoder", ["auto", "cpu"])
def test_the_graphs_of_a_gpu_deliver_there_and_only_a_decoder_on_it_hears_of_its_engines(make, decoder):
    placement = place(GPU, decoder, hw_decoder_load=0.75)
    graph = make(placement, 96, (480, 640))
    with Pipeline(batch_size=4, num_threads=1, device_id=placement.device_id):
        node = graph.build(fn.external_source(source=lambda: (), num_outputs=len(graph.inputs), batch=True))
        assert node.device == "gpu"
        decoding = written_down(node, "decoders__")
    assert ("device: mixed" in decoding) == (decoder == "auto")
    for option in ("hw_decoder_load: 0.75", "preallocate_height_hint: 480", "preallocate_width_hint: 640"):
        assert (option in decoding) == (decoder == "auto")


def written_down(node, name: str) -> str:
    """The operator of that name among those that lead to the node, as DALI writes it down."""
    waiting = [node]
    while waiting:
        operator = waiting.pop().source
        if name in str(operator.spec).splitlines()[0]:
            return str(operator.spec)
        waiting += operator.inputs
    raise AssertionError(f"no {name} leads there")


def test_without_a_share_of_its_own_the_engines_get_dalis():
    assert place(GPU, "gpu").hw_decoder_load is None
    assert place(torch.device("cpu"), "auto", 0.5) == Placement(torch.device("cpu"), False, 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(DataError, match="no share of a batch: choose 0 to 1"):
        place(GPU, "auto", share)


def test_engines_keep_memory_for_a_batch_of_the_largest_images_but_not_more_than_a_gigabyte():
    sizes = np.array([(400, 300), (200, 500)], dtype=np.int32)
    assert size_for_engines(sizes, 64) == (400, 500)
    height, width = size_for_engines(np.array([(6000, 8000)], dtype=np.int32), 256)
    assert 0.99 * 2**30 < 3 * height * width * 256 <= 2**30
    assert abs(height / width - 0.75) < 0.01
    assert size_for_engines(np.array([(1, 1 << 20)], dtype=np.int32), 4096)[0] == 1
