"""One training run over many GPUs: FSDP2 under torchrun, with state that one process can read.

`torchrun --nproc-per-node N -m service.cli train STAGE ...` starts N processes; each holds a share of every
weight and trains on its share of every batch. Saved state is gathered, so it resumes on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from engine_build.model.mmdit import MMDiT

ENTRANCES = ("references", "targets", "keys_values")
"""Methods of blocks, besides `forward`, that the MMDiT calls."""


@dataclass(frozen=True)
class Place:
    """A process among the processes of a run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def processes(device: torch.device) -> Iterator[Place]:
    """The process group of a run that torchrun started, else a run of one."""
    if not dist.is_torchelastic_launched():
        yield Place()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if device.type == "cuda":
            torch.cuda.set_device(dist.get_node_local_rank())
        yield Place(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def shard(dit: MMDiT, place: Place, bf16: bool) -> None:
    """Spread the MMDiT's weights over all processes, block by block; nothing for a run of one.

    With `bf16` weights travel in bfloat16 and gradients are summed in float32; inputs keep their precision, which
    angles of RoPE need. A text encoder that learns is small and stays whole everywhere (transformers finds its
    hidden states by class, which FSDP changes).
    """
    if place.world == 1:
        return
    half = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "cast_forward_inputs": False}
    options = {"mp_policy": MixedPrecisionPolicy(**half)} if bf16 else {}
    for block in (*dit.transformer_blocks, *dit.single_transformer_blocks):
        fully_shard(block, **options)
    fully_shard(dit, **options)
    for block in (*dit.transformer_blocks, *dit.single_transformer_blocks):
        for method in ENTRANCES:
            if hasattr(block, method):
                register_fsdp_forward_method(block, method)
    register_fsdp_forward_method(dit, "encode_references")


def settle(dit: MMDiT) -> None:
    """Back to shares of all weights: after a pass without gradients FSDP keeps the outermost ones whole."""
    if isinstance(dit, FSDPModule):
        dit.reshard()


@torch.no_grad()
def clip_gradients(module: nn.Module, most: float) -> None:
    """Scale all gradients so that their common norm is at most `most`, whether sharded or whole."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        nn.utils.clip_grad_norm_(module.parameters(), most)
        return
    squares = [whole(gradient.square().sum()).item() for gradient in gradients]
    scale = most / (sum(squares) ** 0.5 + 1e-6)
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)


def average_gradients(module: nn.Module, place: Place) -> None:
    """Average the gradients of parameters that every process holds whole: a LoRA's, a text encoder's."""
    if place.world == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= place.world


def mean(values: Mapping[str, Tensor | float], place: Place) -> dict[str, float]:
    """Averages over processes of numbers to be logged."""
    numbers = {name: float(value) for name, value in values.items()}
    if place.world == 1:
        return numbers
    packed = torch.tensor(list(numbers.values()), dtype=torch.float64)
    if dist.get_backend() == "nccl":
        packed = packed.cuda()
    dist.all_reduce(packed)
    return dict(zip(numbers, (packed / place.world).tolist(), strict=True))


def gathered(rows: Tensor, place: Place) -> Tensor:
    """The rows (N, ...) of all processes, in order of rank; each must have as many."""
    if place.world == 1:
        return rows
    local = rows.contiguous().cuda() if dist.get_backend() == "nccl" else rows.contiguous()
    parts = [torch.empty_like(local) for _ in range(place.world)]
    dist.all_gather(parts, local)
    return torch.cat(parts).to(rows.device)


def whole(tree: Any, keep: bool = True) -> Any:
    """The same nested state with every sharded tensor gathered, None in its place where a process need not `keep` it.

    All processes must call it.
    """
    if isinstance(tree, DTensor):
        gathered_tensor = tree.full_tensor()
        return gathered_tensor.cpu() if keep else None
    if isinstance(tree, dict):
        return {name: whole(value, keep) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(value, keep) for value in tree)
    return tree


def placed(saved: Tensor, like: Tensor) -> Tensor:
    """A gathered tensor on the device of, and sharded as, another."""
    if isinstance(like, DTensor):
        return distribute_tensor(saved.to(like.device), like.device_mesh, like.placements)
    return saved.to(like.device)


def placed_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's gathered state, its per-parameter tensors sharded as their parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {
            name: placed(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in saved["state"].items()
    }
    return {**saved, "state": state}
