"""LoRA files against a hand computation and against diffusers with PEFT."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_transformer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from engine_build.config import ModelConfig
from engine_build.engine import ImageInput, TryOnRequest
from engine_build.errors import CheckpointError
from engine_build.instruction import GarmentPhrase, compose
from engine_build.model.lora import LoraSet, read_lora
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import Sequence, grid_ids, pack, text_ids_of
from engine_build.model.weights import NANO, model_config
from engine_build.options import EngineOptions
from engine_build.runtime.torch_engine import load

TARGETS = ["to_q", "to_out.0", "add_k_proj", "to_qkv_mlp_proj", "linear_in", "x_embedder"]


@pytest.fixture
def model() -> MMDiT:
    theirs = tiny_transformer()
    model = MMDiT(ModelConfig.from_diffusers(dict(theirs.config)))
    model.load_state_dict(theirs.state_dict())
    return model.eval().requires_grad_(False)


@pytest.fixture
def sequence() -> Sequence:
    g = torch.Generator().manual_seed(3)
    return Sequence(torch.randn(6, 48, generator=g), torch.randn(12, 16, generator=g), grid_ids(3, 4), 0.6)


def pairs(seed: int, *layers: tuple[str, int, int], rank: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, out_features, in_features in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(rank, in_features, generator=g) * 0.2
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(out_features, rank, generator=g) * 0.2
    return tensors


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


Q0, SINGLE = "transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_qkv_mlp_proj"


def test_two_loras_add_up_as_computed_by_hand(model: MMDiT, tmp_path: Path) -> None:
    first = pairs(1, (Q0, 128, 128), (SINGLE, 1152, 128))
    first[f"transformer.{Q0}.alpha"] = torch.tensor(6.0)
    second = pairs(2, (Q0, 128, 128), rank=3)
    wanted = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (f"transformer.{Q0}.lora_{x}.weight" for x in "AB")
    wanted[f"{Q0}.weight"] += 0.5 * (6.0 / 2) * first[b] @ first[a] - 0.25 * second[b] @ second[a]
    c, d = (f"transformer.{SINGLE}.lora_{x}.weight" for x in "AB")
    wanted[f"{SINGLE}.weight"] += 0.5 * first[d] @ first[c]
    x = torch.randn(5, 128)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    loras = LoraSet(model)
    loras.add("first", read_lora(saved(tmp_path / "a.safetensors", first)), 0.5)
    loras.add("second", read_lora(saved(tmp_path / "b.safetensors", second)), -0.25)
    for layer in (Q0, SINGLE):
        torch.testing.assert_close(
            model.get_submodule(layer)(x), x @ wanted[f"{layer}.weight"].T, atol=1e-4, rtol=1e-4
        )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    loras.bake()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-5, rtol=1e-5)


def test_baked_equals_beside_and_leaves_plain_layers(model: MMDiT, sequence: Sequence, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", pairs(1, (Q0, 128, 128), (SINGLE, 1152, 128)))
    plain = model(pack([sequence]))
    held = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    loras = LoraSet(model)
    loras.add("style", read_lora(path), 2.0)
    beside = model(pack([sequence]))
    assert (beside - plain).norm() > 1e-2 * plain.norm()
    loras.bake()
    torch.testing.assert_close(model(pack([sequence])), beside, atol=1e-4, rtol=1e-4)
    kinds = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {torch.nn.Linear}, "a wrapped layer would compute outputs that nobody asked for"
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == held, "weights were copied"


def test_a_checkpoint_with_start_up_loras_costs_what_it_costs_without(tmp_path: Path) -> None:
    """FLOP of one forward, counted: a LoRA of the last block's projection must not be computed for every token."""
    width = model_config(NANO).width
    out = 3 * width + 2 * model_config(NANO).mlp_width
    last = f"single_transformer_blocks.{model_config(NANO).num_single_layers - 1}.attn.to_qkv_mlp_proj"
    path = saved(tmp_path / "a.safetensors", pairs(1, (last, out, width)))
    counted = []
    for loras in ((), ((path, 0.5),)):
        engine = load("nano", options=EngineOptions(loras=loras))
        grey = ImageInput(Image.new("RGB", (72, 96), "grey"), "grey")
        asked = TryOnRequest("a", grey, (replace(grey, category="tops"),), compose([GarmentPhrase("tops")]), steps=1)
        with FlopCounterMode(display=False) as counter:
            (outcome,) = engine.run([asked])
        assert outcome.error is None
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1]


@torch.no_grad()
def theirs_forward(theirs: Flux2Transformer2DModel, s: Sequence) -> Tensor:
    sigma = torch.tensor([s.sigma])
    return theirs(s.target[None], s.text[None], sigma, s.target_ids, text_ids_of(s.text)).sample[0]


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_files_written_by_diffusers_do_what_peft_does(
    model: MMDiT, sequence: Sequence, tmp_path: Path, rank_stabilised: bool
) -> None:
    theirs = tiny_transformer()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS,
        alpha_pattern={"to_q": 2},
        use_rslora=rank_stabilised,
        init_lora_weights=False,
    )
    theirs.add_adapter(config, adapter_name="default")
    Flux2KleinPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(theirs),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    lora = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(lora.layers) == 2 * 5 + 3 + 1
    plain = model(pack([sequence]))
    LoraSet(model).add("theirs", lora)
    wanted = theirs_forward(theirs, sequence)
    assert (wanted - plain).norm() > 0.05 * wanted.norm()
    assert (model(pack([sequence])) - wanted).norm() < 1e-4 * wanted.norm()


def test_original_flux2_names_stand_for_the_same_layers(
    model: MMDiT, sequence: Sequence, tmp_path: Path
) -> None:
    g = torch.Generator().manual_seed(5)
    shapes = {
        "double_blocks.1.img_attn.qkv": (384, 128),
        "double_blocks.0.txt_attn.qkv": (384, 128),
        "double_blocks.0.img_attn.proj": (128, 128),
        "double_blocks.0.txt_mlp.0": (768, 128),
        "double_blocks.0.img_mlp.2": (128, 384),
        "single_blocks.2.linear1": (1152, 128),
        "single_blocks.2.linear2": (128, 512),
        "img_in": (128, 16),
        "single_stream_modulation.lin": (384, 128),
    }
    tensors = {}
    for layer, (rows, columns) in shapes.items():
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(2, columns, generator=g) * 0.1
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(rows, 2, generator=g) * 0.1
    path = saved(tmp_path / "original.safetensors", tensors)
    converted = Flux2KleinPipeline.lora_state_dict(path)
    theirs = tiny_transformer()
    Flux2KleinPipeline.load_lora_into_transformer(converted, theirs)
    LoraSet(model).add("original", read_lora(path))
    wanted = theirs_forward(theirs, sequence)
    assert (model(pack([sequence])) - wanted).norm() < 1e-4 * wanted.norm()


BROKEN = {
    "half a pair": ({f"transformer.{Q0}.lora_A.weight": torch.ones(2, 128)}, "has no lora_B"),
    "a text encoder's": (
        pairs(1, ("text_encoder.layers.0.q_proj", 8, 8)),
        "layers the model does not have: text_enc",
    ),
    "another width": (pairs(1, (Q0, 64, 128)), r"transformer_blocks.0.attn.to_q as \(64, 128\)"),
    "not a LoRA": ({"some.weight": torch.ones(2)}, "'some.weight', which is not a LoRA"),
    "DoRA": (
        {**pairs(1, (Q0, 128, 128)), f"transformer.{Q0}.lora_magnitude_vector": torch.ones(128)},
        "lora_magnitude_vector",
    ),
    "ranks that differ": (
        {
            f"transformer.{Q0}.lora_A.weight": torch.ones(2, 128),
            f"transformer.{Q0}.lora_B.weight": torch.ones(128, 3),
        },
        "do not multiply",
    ),
    "nothing": ({}, "holds no LoRA"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_and_leave_the_model_alone(model: MMDiT, tmp_path: Path, case: str) -> None:
    tensors, message = BROKEN[case]
    path = saved(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(CheckpointError, match=message):
        LoraSet(model).add("broken", read_lora(path))
    assert type(model.get_submodule(Q0)) is torch.nn.Linear


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        read_lora(tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match="is missing"):
        read_lora(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_lora(tmp_path / "text.safetensors")


def test_names_are_unique_and_known(model: MMDiT, tmp_path: Path) -> None:
    lora = read_lora(saved(tmp_path / "a.safetensors", pairs(1, (Q0, 128, 128))))
    loras = LoraSet(model)
    loras.add("style", lora)
    with pytest.raises(ValueError, match="already a LoRA named 'style'"):
        loras.add("style", lora)
