"""The Triton kernels as torch operators: schema, shapes under torch.compile and export, CPU twins, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")
from engine_build.config import ModelConfig
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from kernels import (
    BackendUnavailable,
    Route,
    Segments,
    adaln,
    attention,
    fp8,
    gated_mlp,
    group_norm,
    launch,
    low_rank,
    qk_norm_rope,
    quantise,
    reference,
    select,
)

pytestmark = pytest.mark.skipif(launch.INTERPRETED, reason="about operators, not about kernels")
OWN, PREFIX = Segments((3, 0, 5, 2)), Segments((4, 1))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tables(segments: Segments) -> tuple[list[int], Tensor, Tensor]:
    cpu = torch.device("cpu")
    return list(segments.lengths), segments.cu_seqlens(cpu), segments.tiles(4, cpu)


def attention_call() -> tuple[Any, ...]:
    q, k, v, pk, pv = (random(n, 2, 32, seed=i) for i, n in enumerate((10, 10, 10, 5, 5)))
    own, prefix = tables(OWN), tables(PREFIX)
    return q, k, v, *own, *own[:2], pk, pv, *prefix[:2], 2


def norm_call() -> tuple[Any, ...]:
    return (*(random(6, 2, 32, seed=i) for i in range(2)), random(32), random(32), *angles(), 1e-6)


def angles() -> tuple[Tensor, Tensor]:
    return random(6, 16, seed=3), random(6, 16, seed=4)


def into_call() -> tuple[Any, ...]:
    rows = torch.tensor([3, 1, 7, 0, 2, 8], dtype=torch.int32)
    outs = [torch.zeros(9, 2, 32) for _ in range(3)]
    return (*(random(6, 2, 32, seed=i) for i in range(3)), random(32), random(32), *angles(), 1e-6, rows, *outs)


def row_call(tensors: int, modulations: int, *rest: Any) -> tuple[Any, ...]:
    x = [random(10, 8, seed=i) for i in range(tensors)]
    return (*x, *(random(4, 8, seed=9 + i) for i in range(modulations)), *tables(OWN), *rest)


ROUTE = Route((((1, 0.5),), (), ((0, 2.0), (1, 1.0)), ()))


def low_rank_call(fp8_rows: bool) -> tuple[Any, ...]:
    x, scales = random(10, 16, seed=1), None
    if fp8_rows:
        x, scales = fp8.quantise_twin(x)
    flat = [pair for row in ROUTE.rows for pair in row]
    host = [place for place, _ in flat], [scale for _, scale in flat]
    stacks = random(2, 16, 16, seed=2), random(2, 24, 16, seed=3)
    return random(10, 24), x, scales, *stacks, *host, *ROUTE.tables(torch.device("cpu")), *tables(OWN)


CALLS = {
    "attention": (attention.attention_op, attention_call),
    "qk_norm_rope": (qk_norm_rope.qk_norm_rope_op, norm_call),
    "qk_norm_rope_into": (qk_norm_rope.qk_norm_rope_into_op, into_call),
    "rope": (qk_norm_rope.rope_op, lambda: (random(6, 2, 32), *angles())),
    "adaln": (adaln.adaln_op, lambda: row_call(1, 2, 1e-6, False)),
    "adaln, fp8": (adaln.adaln_op, lambda: row_call(1, 2, 1e-6, True)),
    "residual_adaln": (adaln.residual_adaln_op, lambda: row_call(2, 3, 1e-6, False)),
    "residual_adaln, fp8": (adaln.residual_adaln_op, lambda: row_call(2, 3, 1e-6, True)),
    "gated_residual": (gated_mlp.gated_residual_op, lambda: row_call(2, 1)),
    "swiglu": (gated_mlp.swiglu_op, lambda: (random(5, 16), None, False)),
    "swiglu, lead": (gated_mlp.swiglu_op, lambda: (random(5, 16), random(5, 4), False)),
    "swiglu, fp8": (gated_mlp.swiglu_op, lambda: (random(5, 16), random(5, 4), True)),
    "group_norm_silu": (
        group_norm.group_norm_silu_op,
        lambda: (random(2, 8, 3, 5).contiguous(memory_format=torch.channels_last), 4, random(8), random(8), 1e-6),
    ),
    "add_low_rank": (low_rank.add_low_rank_op, lambda: low_rank_call(False)),
    "add_low_rank, fp8": (low_rank.add_low_rank_op, lambda: low_rank_call(True)),
    "quantise_rows": (quantise.quantise_rows_op, lambda: (random(5, 16),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_keep_torch_rules(name: str) -> None:
    operator, arguments = CALLS[name]
    given = arguments()
    checks = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if any(isinstance(x, Tensor) and x.dtype == torch.float8_e4m3fn for x in given):
        checks.remove("test_schema")  # it multiplies its arguments, which torch cannot do in FP8 on a CPU
    torch.library.opcheck(operator, given, test_utils=checks)
    assert getattr(torch.ops.changeroom, name.partition(",")[0]).default is operator._opoverload


@pytest.mark.parametrize("call", [False, True], ids=["export", "compile"])
def test_compile_and_export_see_one_operator(call: bool) -> None:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return gated_mlp.swiglu(x * 2) + 1

    x = random(5, 16)
    expected = reference.swiglu(x * 2) + 1
    if call:
        torch.testing.assert_close(torch.compile(Layer(), backend="aot_eager", fullgraph=True)(x), expected)
        return
    program = torch.export.export(Layer(), (x,))
    assert "torch.ops.changeroom.swiglu" in program.graph_module.code
    torch.testing.assert_close(program.module()(x), expected)


def test_twins_compute_the_reference() -> None:
    q, k, v, *_ = attention_call()
    pk, pv = random(5, 2, 32, seed=8), random(5, 2, 32, seed=9)
    shared = {"prefix_k": pk, "prefix_v": pv, "prefix_segments": PREFIX, "draws": 2}
    torch.testing.assert_close(attention.attention(q, k, v, OWN, **shared), reference.attention(q, k, v, OWN, **shared))
    x, shift, scale = random(10, 8), random(4, 8, seed=1), random(4, 8, seed=2)
    exact = reference.adaln(x, shift, scale, OWN, 1e-6)
    torch.testing.assert_close(adaln.adaln(x, shift, scale, OWN, 1e-6), exact)
    close_to_e4m3(adaln.adaln_fp8(x, shift, scale, OWN, 1e-6), exact)
    summed = reference.gated_residual(x, x, scale, OWN)
    torch.testing.assert_close(gated_mlp.gated_residual(x, x, scale, OWN), summed)
    normed = reference.adaln(summed, shift, scale, OWN, 1e-6)
    for actual in (
        adaln.residual_adaln(x, x, scale, shift, scale, OWN, 1e-6),
        adaln.residual_adaln_fp8(x, x, scale, shift, scale, OWN, 1e-6),
    ):
        torch.testing.assert_close(actual[0], summed)
        (torch.testing.assert_close if isinstance(actual[1], Tensor) else close_to_e4m3)(actual[1], normed)
    close_to_e4m3(gated_mlp.swiglu_fp8(x), reference.swiglu(x))
    close_to_e4m3(gated_mlp.swiglu_fp8(x, x[:, :3]), torch.cat((x[:, :3], reference.swiglu(x)), 1))


def test_adapters_are_added_in_place_as_the_reference_says() -> None:
    x, down, up = random(10, 16), random(2, 16, 16, seed=2), random(2, 24, 16, seed=3)
    for rows in (x, fp8.Quantised(*fp8.quantise_twin(x))):
        y = random(10, 24, seed=4)
        expected = reference.add_low_rank(y.clone(), rows, down, up, ROUTE, OWN)
        assert low_rank.add_low_rank(y, rows, down, up, ROUTE, OWN) is y
        torch.testing.assert_close(y, expected)


def close_to_e4m3(quantised: fp8.Quantised, exact: Tensor) -> None:
    allowed = (exact.abs() * 2**-4).maximum(quantised.scales[:, None] * 2**-10) + 1e-6
    assert ((quantised.values.float() * quantised.scales[:, None] - exact).abs() <= allowed).all()


def test_rows_go_where_they_are_told() -> None:
    *inputs, out_q, out_k, out_v = into_call()
    qk_norm_rope.qk_norm_rope_into_op(*inputs, out_q, out_k, out_v)
    rows = inputs[-1].long()
    q, k = reference.qk_norm_rope(*inputs[:2], *inputs[3:8])
    for out, x in zip((out_q, out_k, out_v), (q, k, inputs[2]), strict=True):
        torch.testing.assert_close(out[rows], x)
        assert out.index_fill(0, rows, 0.0).eq(0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_without_a_gpu_the_backend_says_so() -> None:
    with pytest.raises(BackendUnavailable, match="CUDA"):
        select("triton")


def misfits() -> dict[str, tuple[Callable[[], object], str]]:
    q, k, v = (random(10, 2, 32, seed=i) for i in range(3))
    x, rows = random(10, 8), random(4, 8)
    cos, sin = random(10, 16), random(10, 16)
    w = random(32)
    return {
        "head size": (lambda: attention.attention(q[..., :8], k, v, OWN), "E one of"),
        "dtype": (lambda: attention.attention(q.double(), k.double(), v.double(), OWN), "float64"),
        "mixed dtypes": (lambda: attention.attention(q, k.half(), v, OWN), "k is"),
        "shapes": (lambda: attention.attention(q, k[:4], v, OWN), "differ"),
        "segments": (lambda: attention.attention(q, k, v, PREFIX), "10 tokens, its segments 5"),
        "rows": (lambda: attention.attention(q, k, v.transpose(1, 2).contiguous().transpose(1, 2), OWN), "v has"),
        "prefixes": (
            lambda: attention.attention(
                q, k, v, OWN, prefix_k=k[:5], prefix_v=v[:5], prefix_segments=PREFIX
            ),
            "cannot share",
        ),
        "prefix length": (
            lambda: attention.attention(
                q, k, v, OWN, prefix_k=k[:4], prefix_v=v[:4], prefix_segments=PREFIX, draws=2
            ),
            "prefix_k",
        ),
        "out": (lambda: attention.attention(q, k, v, OWN, out=q[:3]), "out must be"),
        "angles": (lambda: qk_norm_rope.qk_norm_rope(q, k, w, w, cos[:3], sin, 1e-6), "cos is"),
        "weights": (lambda: qk_norm_rope.qk_norm_rope(q, k, w[:3], w, cos, sin, 1e-6), "q_weight"),
        "shift": (lambda: adaln.adaln(x, rows[:2], rows, OWN, 1e-6), "shift is"),
        "tokens": (lambda: adaln.adaln(x[:3], rows, rows, OWN, 1e-6), "its segments have 10"),
        "gate": (lambda: gated_mlp.gated_residual(x, x, rows[:2], OWN), "gate is"),
        "lead": (lambda: gated_mlp.swiglu(x, x[:3]), "lead is"),
        "places": (lambda: low_rank.add_low_rank(x, x, rows[None], rows[None], ROUTE, OWN), "no place|does not make"),
        "adapters of another dtype": (
            lambda: low_rank.add_low_rank(x, x, rows[None].double(), rows.T[None], Route(((),) * 4), OWN), "down is"
        ),
        "keys": (lambda: attention.attention(q, k, v, OWN, key_segments=PREFIX), "k has 10 tokens"),
        "groups": (lambda: group_norm.group_norm_silu(q[None], 3, w, w, 1e-6), "groups"),
        "odd": (lambda: gated_mlp.swiglu(x[:, :7]), "2M"),
        "sizes of 16": (
            lambda: fp8.linear(reference.quantise(x), reference.quantise(x)),
            "multiples of 16",
        ),
        "bias": (lambda: fp8.Fp8Linear.of(nn.Linear(16, 16)), "no bias"),
    }  # fmt: skip


@pytest.mark.parametrize("name", misfits())
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, message = misfits()[name]
    with pytest.raises(ValueError, match=message):
        call()


def tiny_model() -> MMDiT:
    config = ModelConfig(
        num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=32, in_channels=16,
        joint_attention_dim=16, axes_dims_rope=(8, 8, 8, 8), reference_attention="isolated",
    )  # fmt: skip
    model = MMDiT(config).eval().requires_grad_(False)
    model.initialise(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        if parameter.eq(0).all():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return model


def test_fp8_replaces_every_linear_that_is_not_kept() -> None:
    model = tiny_model()
    images = (Reference(random(4, 16), grid_ids(2, 2, t=10)),)
    batch = pack([Sequence(random(5, 16), random(9, 16, seed=1), grid_ids(3, 3), 0.5, images)])
    expected = model(batch)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    converted = set(fp8.convert(model))
    assert len(converted) == 12 + 2
    for kept, reason in fp8.KEPT:
        assert reason and any(name.startswith(kept) for name in linears - converted), kept
    assert all(name.startswith(tuple(prefix for prefix, _ in fp8.KEPT)) for name in linears - converted)
    error = (model(batch) - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.1


def test_an_fp8_linear_takes_what_its_producer_quantised() -> None:
    layer = nn.Linear(32, 48, bias=False).requires_grad_(False)
    x = random(7, 64)
    quantised = gated_mlp.swiglu_fp8(x)
    exact = layer(reference.swiglu(x))
    mine = fp8.Fp8Linear.of(layer)
    assert torch.equal(mine(quantised), mine(reference.swiglu(x)))
    assert (mine(quantised) - exact).norm() / exact.norm() < 0.06
