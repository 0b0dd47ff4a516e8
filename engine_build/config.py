"""What a checkpoint is: the shape of its MMDiT, and how it is meant to be run.

The shape is diffusers' `transformer/config.json`. What diffusers has no field for lives in
`changeroom.json` beside `model_index.json`; without that file a folder is a FLUX.2-klein one.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from engine_build.errors import CheckpointError

ReferenceAttention = Literal["joint", "shared", "isolated"]
REFERENCE_ATTENTION: tuple[str, ...] = get_args(ReferenceAttention)
CHECKPOINT_FILE = "changeroom.json"


@dataclass(frozen=True)
class ModelConfig:
    """Shape of an MMDiT; field names are those of diffusers' Flux2Transformer2DModel."""

    num_layers: int
    num_single_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    joint_attention_dim: int
    axes_dims_rope: tuple[int, ...]
    reference_attention: ReferenceAttention = "joint"
    patch_size: int = 1
    out_channels: int | None = None
    timestep_guidance_channels: int = 256
    mlp_ratio: float = 3.0
    rope_theta: int = 2000
    eps: float = 1e-6
    guidance_embeds: bool = False

    def __post_init__(self) -> None:
        if self.reference_attention not in REFERENCE_ATTENTION:
            raise CheckpointError(
                f"reference_attention is {self.reference_attention!r}, not one of "
                f"{', '.join(REFERENCE_ATTENTION)}"
            )
        if sum(self.axes_dims_rope) != self.attention_head_dim or len(self.axes_dims_rope) != 4:
            raise CheckpointError(
                f"axes_dims_rope {self.axes_dims_rope} must be 4 numbers that sum to "
                f"attention_head_dim {self.attention_head_dim}"
            )
        if self.num_single_layers < 1:
            raise CheckpointError("num_single_layers must be at least 1: the last block is a single-stream one")
        if self.guidance_embeds and self.reference_attention != "joint":
            raise CheckpointError(
                f"{self.reference_attention} reference attention is not defined for a model with embedded "
                "guidance"
            )

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def output_channels(self) -> int:
        return self.patch_size**2 * (self.out_channels or self.in_channels)

    @property
    def layers(self) -> int:
        return self.num_layers + self.num_single_layers

    @classmethod
    def from_diffusers(
        cls, config: dict[str, Any], reference_attention: ReferenceAttention = "joint"
    ) -> Self:
        """From `transformer/config.json`. Raises CheckpointError for another class or an unknown field."""
        name = config.get("_class_name", "Flux2Transformer2DModel")
        if name != "Flux2Transformer2DModel":
            raise CheckpointError(f"transformer is a {name}, only Flux2Transformer2DModel is supported")
        values = {**_DIFFUSERS_DEFAULTS, **{k: v for k, v in config.items() if not k.startswith("_")}}
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise CheckpointError(f"transformer/config.json has unknown fields: {', '.join(unknown)}")
        values["axes_dims_rope"] = tuple(values["axes_dims_rope"])
        values["reference_attention"] = reference_attention
        return cls(**values)

    def to_diffusers(self) -> dict[str, Any]:
        """The dictionary of `transformer/config.json`, without the fields diffusers does not know."""
        values = asdict(self)
        del values["reference_attention"]
        values["axes_dims_rope"] = list(self.axes_dims_rope)
        return {"_class_name": "Flux2Transformer2DModel", **values}


_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "num_layers": 8,
    "num_single_layers": 48,
    "num_attention_heads": 48,
    "attention_head_dim": 128,
    "in_channels": 128,
    "joint_attention_dim": 15360,
    "axes_dims_rope": (32, 32, 32, 32),
    "guidance_embeds": True,
}


@dataclass(frozen=True)
class CheckpointConfig:
    """How a checkpoint is run; the contents of `changeroom.json`. The defaults are stock klein's.

    default_size is (width, height) in pixels. text_layers index the text encoder's hidden states;
    pad_text says whether prompts are padded to max_text_tokens, unmasked, as klein was trained;
    chat_template whether they are wrapped in the tokenizer's template. garment_area caps a garment's pixels;
    with a garment_canvas (width, height) every garment is laid on that canvas instead, and the person on the
    target's, padded with the colour of their own edges.
    """

    reference_attention: ReferenceAttention = "joint"
    max_references: int = 4
    default_size: tuple[int, int] = (768, 1024)
    default_steps: int = 4
    max_text_tokens: int = 512
    pad_text: bool = True
    chat_template: bool = True
    text_layers: tuple[int, ...] = (9, 18, 27)
    garment_area: int = 512 * 512
    garment_canvas: tuple[int, int] | None = None
    max_pixels: int = 2048 * 2048
    max_steps: int = 50
    note: str = ""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads `changeroom.json`, or derives klein's defaults from `model_index.json`.

        Raises CheckpointError for unreadable JSON, unknown fields or values of the wrong kind.
        """
        path = folder / CHECKPOINT_FILE
        if not path.exists():
            index = read_json(folder / "model_index.json")
            cached = index.get("_class_name") == "Flux2KleinKVPipeline"
            return cls(reference_attention="shared" if cached else "joint")
        values = read_json(path)
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise CheckpointError(f"{path} has unknown fields: {', '.join(unknown)}")
        for name in ("default_size", "text_layers", "garment_canvas"):
            if values.get(name) is not None:
                if not isinstance(values[name], list) or not all(isinstance(n, int) for n in values[name]):
                    raise CheckpointError(f"{path}: {name} must be a list of integers")
                values[name] = tuple(values[name])
        loaded = cls(**values)
        loaded.check(path)
        return loaded

    def check(self, path: Path) -> None:
        """Raises CheckpointError, naming the file, when a value cannot be used."""
        if self.reference_attention not in REFERENCE_ATTENTION:
            raise CheckpointError(
                f"{path}: reference_attention must be one of {', '.join(REFERENCE_ATTENTION)}"
            )
        counts = (
            "max_references",
            "default_steps",
            "max_steps",
            "max_text_tokens",
            "garment_area",
            "max_pixels",
        )
        for name in counts:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(f"{path}: {name} must be a positive integer")
        if len(self.default_size) != 2 or min(self.default_size) < 1:
            raise CheckpointError(f"{path}: default_size must be [width, height] in pixels")
        canvas = self.garment_canvas
        if canvas is not None and (len(canvas) != 2 or min(canvas) < 1):
            raise CheckpointError(f"{path}: garment_canvas must be [width, height] in pixels")
        if not self.text_layers or min(self.text_layers) < 1:
            raise CheckpointError(f"{path}: text_layers must name at least one hidden state, from 1")
        for name in ("pad_text", "chat_template"):
            if not isinstance(getattr(self, name), bool):
                raise CheckpointError(f"{path}: {name} must be true or false")
        if not isinstance(self.note, str):
            raise CheckpointError(f"{path}: note must be text")

    def save(self, folder: Path) -> None:
        """Writes `changeroom.json`."""
        (folder / CHECKPOINT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError when the file is missing, broken or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        num_layers=2,
        num_single_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=64,
        joint_attention_dim=192,
        axes_dims_rope=(8, 8, 8, 8),
        reference_attention="isolated",
    ),
    "klein-4b": ModelConfig(
        num_layers=5,
        num_single_layers=20,
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=128,
        joint_attention_dim=7680,
        axes_dims_rope=(32, 32, 32, 32),
    ),
    "klein-9b": ModelConfig(
        num_layers=8,
        num_single_layers=24,
        num_attention_heads=32,
        attention_head_dim=128,
        in_channels=128,
        joint_attention_dim=12288,
        axes_dims_rope=(32, 32, 32, 32),
    ),
    "tstars-5b": ModelConfig(
        num_layers=7,
        num_single_layers=25,
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=128,
        joint_attention_dim=7680,
        axes_dims_rope=(32, 32, 32, 32),
        reference_attention="isolated",
    ),
}
