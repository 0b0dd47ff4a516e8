"""The whole MMDiT on Triton kernels against itself on the reference, in every reference-attention mode.

Compiled on a GPU; elsewhere in the process that `test_triton_interpreter.py` starts.
"""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

pytest.importorskip("triton")
from engine_build.config import ModelConfig
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.adapters import Adapter
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Reference, Sequence, grid_ids, pack
from kernels import fp8, launch, select
from kernels.backend import TMA_CAPABILITY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.skipif(
        not (launch.INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET"
    ),
]
DEVICE = "cpu" if launch.INTERPRETED else "cuda"


def build(mode: str) -> MMDiT:
    config = ModelConfig(
        num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=32, in_channels=16,
        joint_attention_dim=16, axes_dims_rope=(8, 8, 8, 8), reference_attention=mode,
    )  # fmt: skip
    model = MMDiT(config).eval().requires_grad_(False)
    model.initialise(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.eq(0).all():
            parameter.normal_(0, 0.2, generator=generator)
    return model.to(DEVICE)


def request(seed: int, text: int, grid: tuple[int, int], *references: tuple[int, int]) -> Sequence:
    g = torch.Generator().manual_seed(seed)
    images = tuple(
        Reference(torch.randn(h * w, 16, generator=g), grid_ids(h, w, t=10 * (i + 1)))
        for i, (h, w) in enumerate(references)
    )
    target = torch.randn(grid[0] * grid[1], 16, generator=g)
    return Sequence(torch.randn(text, 16, generator=g), target, grid_ids(*grid), 0.3 + 0.1 * seed, images)


MIXED = (request(0, 5, (3, 3), (2, 2), (3, 1)), request(1, 2, (1, 7)), request(2, 0, (2, 2), (1, 5)))


@pytest.mark.parametrize(
    ("mode", "name"), [("joint", "triton"), ("shared", "triton"), ("isolated", "triton"), ("isolated", "triton-tma")]
)
def test_the_model_is_the_same_on_triton_kernels(mode: str, name: str) -> None:
    if name == "triton-tma" and DEVICE == "cuda" and torch.cuda.get_device_capability() < TMA_CAPABILITY:
        pytest.skip("tensor maps need Hopper")
    model = build(mode)
    batch = pack(MIXED).to(DEVICE)
    expected = model(batch)
    model.kernels = select(name)
    assert model.kernels.fused and model.kernels.name == name
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(model(batch), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("mode", ["joint", "shared", "isolated"])
def test_adapters_are_the_same_on_triton_kernels(mode: str, quantised: bool) -> None:
    """Three requests, of two adapters, none, and one of two pages; FP8 up to what rounds without adapters."""
    made = []
    for name in ("torch", "triton"):
        model = build(mode)
        if quantised:
            model = model.to(torch.bfloat16)
            fp8.convert(model)
        model.kernels = select(name)
        bank = AdapterBank(model, 1 << 26)
        g, everywhere = torch.Generator().manual_seed(7), frozenset(bank.layout.sizes)
        first, second, wide = (
            Adapter(str(i), (0.15 * torch.randn(pages, bank.layout.elements, generator=g)).to(model.dtype), everywhere)
            for i, pages in enumerate((1, 1, 2))
        )
        held = bank.hold([((first, 0.5), (second, -1.0)), (), ((wide, 0.7),)], [Counter() for _ in range(3)])
        asked = [replace(plain, adapters=pairs) for plain, pairs in zip(MIXED, held, strict=True)]
        made.append((model(pack(asked).to(DEVICE)).float(), model(pack(MIXED).to(DEVICE)).float()))
    rows = [len(asked.target) for asked in MIXED]
    parts = (x.split(rows) for kernels in made for x in kernels)
    for i, (truth, bare, mine, mine_bare) in enumerate(zip(*parts, strict=True)):
        rounding = (mine_bare - bare).norm() / bare.norm()
        assert (mine - truth).norm() / truth.norm() < (2 * rounding if quantised else 1e-4)
        assert ((truth - bare).norm() / bare.norm() > 3 * rounding) == (i != 1)


def test_the_autoencoder_is_the_same_on_triton_kernels() -> None:
    """Its fast path: channels-last, every norm and the activation behind it one kernel."""
    diffusers = pytest.importorskip("diffusers")
    from engine_build.model.autoencoder import Autoencoder

    torch.manual_seed(0)
    plain = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, norm_num_groups=4,
    ).to(DEVICE)  # fmt: skip
    plain.bn.running_var.uniform_(0.5, 1.5)
    fast = copy.deepcopy(plain)
    picture = Image.effect_noise((24, 20), 60).convert("RGB")
    slow, ours = Autoencoder(plain), Autoencoder(fast, select("triton"))
    tokens = slow.encode([picture])
    torch.testing.assert_close(ours.encode([picture]), tokens, atol=2e-3, rtol=2e-3)
    difference = slow.pixels(tokens[0]).int() - ours.pixels(tokens[0]).int()
    assert difference.abs().max() <= 1
    assert slow.pixels(tokens[0]).float().std() > 3


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_the_fp8_model_is_the_same_on_triton_kernels(mode: str) -> None:
    """Up to the interpreter's rounding, which is towards zero."""
    model = build(mode).to(torch.bfloat16)
    batch = pack(MIXED).to(DEVICE)
    exact = model(batch).float()
    fp8.convert(model)
    twin = model(batch).float()
    model.kernels = select("triton")
    actual = model(batch).float()
    assert (twin - exact).norm() / exact.norm() < 0.08
    assert (actual - twin).norm() / twin.norm() < (0.12 if launch.INTERPRETED else 0.03)
    assert (actual - exact).norm() / exact.norm() < 0.12
