"""What torch.compile, export and a GPU's compiler see of the Triton operators, found out without a GPU.

Tensors that only pretend to be on a GPU take the kernels' branch of every operator, down to the launch; Triton's
front end then reads the kernel with the very arguments it is launched with and says what it writes. A stand-in of
the driver tells it the target, Hopper, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")
from test_triton_operators import CALLS, tiny_model
from torch._functorch.aot_autograd import aot_export_module
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from kernels import Segments, attention, fp8, launch, low_rank, select

pytestmark = [
    pytest.mark.skipif(launch.INTERPRETED, reason="about operators, not about kernels"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]
WRITTEN = {
    "attention": [{"p_o"}],
    "qk_norm_rope": [{"p_out_q", "p_out_k"}],
    "qk_norm_rope_into": [{"p_out_q", "p_out_k", "p_out_v"}],
    "rope": [{"p_out_q"}],
    "adaln": [{"p_o"}],
    "adaln, fp8": [{"p_o", "p_row_scales"}],
    "residual_adaln": [{"p_sum", "p_o"}],
    "residual_adaln, fp8": [{"p_sum", "p_o", "p_row_scales"}],
    "gated_residual": [{"p_o"}],
    "swiglu": [{"p_o"}],
    "swiglu, lead": [{"p_o"}],
    "swiglu, fp8": [{"p_o", "p_row_scales"}],
    "group_norm_silu": [{"p_sums"}, {"p_o"}],
    "add_low_rank": [{"p_h"}, {"p_y"}],
    "add_low_rank, fp8": [{"p_h"}, {"p_y"}],
    "quantise_rows": [{"p_values", "p_scales"}],
}


@pytest.fixture
def hopper() -> Iterator[None]:
    """A driver that knows its target and cannot launch anything."""
    driver.set_active(SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32)))
    yield
    driver.set_active(None)


class Call(nn.Module):
    """An operator as a module of its tensors; one that writes in place gives what it wrote."""

    def __init__(self, operator: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.operator, self.arguments = operator, arguments

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        out = self.operator(*(next(given) if isinstance(x, Tensor) else x for x in self.arguments))
        if out is None:
            return tensors[:1] if self.operator is low_rank.add_low_rank_op else tensors[-3:]
        return tuple(out) if isinstance(out, list | tuple) else (out,)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("name", CALLS)
def test_a_compiler_sees_the_kernel_and_all_that_it_writes(name: str) -> None:
    operator, arguments = CALLS[name]
    real = arguments()
    with FakeTensorMode():
        fake = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
            for x in real
            if isinstance(x, Tensor)
        ]
    with torch.no_grad():
        graph, _ = aot_export_module(Call(operator, real), fake, trace_joint=False)
    launches = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
    assert [set(node.kwargs["tensors_to_clone"]) for node in launches] == WRITTEN[name]
    for node in launches:
        targets = [node.kwargs["kwargs"][argument] for argument in node.kwargs["tensors_to_clone"]]
        assert len(set(targets)) == len(targets)  # two names of one tensor: only one of them would be kept
        assert all(size > 0 for size in node.kwargs["grid"][0])


class Straight:
    """In the place of a kernel: remembers how it was launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], tuple[Any, ...]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **_: self.launches.append((grid, arguments))


@pytest.mark.parametrize("tma", [False, True])
def test_a_launch_outside_of_an_operator_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tma: bool) -> None:
    """torch would keep the tensor maps of a wrapped kernel, and the keys and values they point to, for ever."""
    straight, before = Straight(), len(kernel_side_table.constant_args)
    monkeypatch.setattr(attention, "attention_kernel", straight)
    x = torch.randn(10, 2, 32)
    attention.attention(x, x, x, Segments((7, 3)), out=torch.empty_like(x), tma=tma)
    ((grid, arguments),) = straight.launches
    assert grid == (2, 2)
    assert arguments[0] is x and isinstance(arguments[1], Tensor) != tma
    assert len(kernel_side_table.constant_args) == before


def on_triton(model: MMDiT, monkeypatch: pytest.MonkeyPatch) -> MMDiT:
    """The model on the Triton operators, whose twins run on this machine's CPU."""
    with monkeypatch.context() as pretended:
        pretended.setattr(torch.cuda, "is_available", lambda: True)
        model.kernels = select("triton")
    return model


class Step(nn.Module):
    """One denoising step of a packed batch."""

    def __init__(self, model: MMDiT) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        images = (Reference(torch.randn(6, 16, generator=g), grid_ids(2, 3, t=10)),)
        self.batch = pack(
            [
                Sequence(torch.randn(5, 16, generator=g), torch.randn(9, 16, generator=g), grid_ids(3, 3), 0.7, images),
                Sequence(torch.randn(2, 16, generator=g), torch.randn(4, 16, generator=g), grid_ids(2, 2), 0.3),
            ]
        )
        self.model, self.stage = model, model.prepare(self.batch)

    def forward(self, target: Tensor, sigma: Tensor) -> Tensor:
        return self.model.velocity(self.stage, target, sigma)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_whole_step_compiles_and_exports_with_our_operators_in_it(
    monkeypatch: pytest.MonkeyPatch, quantised: bool
) -> None:
    model = tiny_model()
    if quantised:
        fp8.convert(model)
    plain = Step(model)
    given = plain.batch.target, plain.batch.sigma
    expected = plain(*given)
    step = Step(on_triton(model, monkeypatch))
    bound = 1e-1 if quantised else 1e-5
    step(*given)  # the first step of a batch makes the tables on the device that the others read
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(*given)
    assert (compiled - expected).norm() / expected.norm() < bound
    program = torch.export.export(step, given, strict=False)
    seen = [str(node.target).split(".")[1] for node in program.graph.nodes if "changeroom." in str(node.target)]
    blocks = 2
    assert seen.count("attention") == blocks
    assert {"adaln", "residual_adaln", "gated_residual", "swiglu", "qk_norm_rope", "qk_norm_rope_into"} <= set(seen)
    assert ("quantise_rows" in seen) == quantised
    exported = program.module()(*given)
    assert (exported - expected).norm() / expected.norm() < bound
