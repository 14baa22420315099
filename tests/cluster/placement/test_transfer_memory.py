"""What a publish holds on GPUs, against vLLM's own packing of the same tensors."""

from itertools import pairwise

import pytest
import torch

from cluster.placement import transfer_memory
from cluster.placement.rank import MIB, Rank
from cluster.placement.transfer_memory import buffer, receiver, sender
from configs.model_folder import ModelSize, size_of
from learner.weight_sender import buffer_bytes
from tests.cluster.placement.clusters import debug

LAYER = {"q": (256, 512), "up": (1024, 512), "down": (512, 1024)}  # in MiB: 0.25, 1, 1
TENSORS = {
    "model.embed_tokens.weight": (6 * 1024, 512),  # 6 MiB
    **{f"model.layers.{i}.{n}.weight": shape for i in range(4) for n, shape in LAYER.items()},
}
HEAD = {"lm_head.weight": (6 * 1024, 512)}


def run(bucket=4, tensors=None, model=None):
    tensors = TENSORS | HEAD if tensors is None else tensors
    model = model or size_of(tensors.items(), 4, 512, 6 * 1024, None)
    return Rank(debug("model.dtype=bfloat16", f"cluster.sync_bucket_mib={bucket}"), model)


@pytest.mark.parametrize(("bucket", "mib"), [(4, 6), (8, 8)])
def test_a_chunks_limit_is_the_channels_own(bucket, mib):
    shapes = [(name, torch.bfloat16, shape) for name, shape in (TENSORS | HEAD).items()]
    assert buffer(run(bucket)) == buffer_bytes(shapes, bucket * MIB) == mib * MIB


def vllm_chunks(bucket, tensors):
    """As vLLM's own producer packs them."""
    from vllm.distributed.weight_transfer.packed_tensor import pack_tensors

    limit = buffer(run(bucket, tensors))
    made = ((n, torch.empty(s, dtype=torch.bfloat16)) for n, s in tensors.items())
    chunks = []
    while (chunk := pack_tensors(made, lambda item: item[1], limit)) is not None:
        chunks.append(chunk.packed_tensor.numel())
    return chunks


@pytest.mark.parametrize("bucket", [1, 4, 7, 64])
@pytest.mark.parametrize("tied", [True, False])
def test_nccl_holds_vllms_chunks(bucket, tied):
    tensors = TENSORS if tied else TENSORS | HEAD
    chunks, given = [0, *vllm_chunks(bucket, tensors)], run(bucket, tensors)
    pairs = list(pairwise(chunks))
    assert sum(chunks) == given.parameters * 2
    assert receiver(given, "nccl") == max(a + b for a, b in pairs)
    assert sender(given, "nccl") == buffer(given) + max(a + 2 * b for a, b in pairs)


def test_ipc_fills_one_buffer_and_the_engine_copies_what_it_holds():
    given = run()
    assert sender(given, "ipc") == receiver(given, "ipc") == 12 * MIB


def test_tensors_of_no_known_shape_come_in_pieces():
    given = run(4, model=ModelSize({"all": 11 * MIB}, 2, 8, 100, 512))
    assert buffer(given) == 4 * MIB
    assert sum(transfer_memory._tensors(given)) == 22 * MIB
    assert receiver(given, "nccl") > 12 * MIB  # two of 4 MiB, each closed by another
    small = run(4, model=ModelSize({"all": 1000}, 2, 8, 100, 512))
    assert receiver(small, "nccl") == 2000
