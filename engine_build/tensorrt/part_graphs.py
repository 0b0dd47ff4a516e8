"""The text encoder and the autoencoder as graphs; their models come from transformers and diffusers.

Letters: Lt text tokens, D width, B pictures, Y, X pixels, y, x latents, c latent channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from engine_build.tensorrt.ports import Graph, Port

if TYPE_CHECKING:
    from diffusers import AutoencoderKLFlux2
    from transformers import Qwen3Model

Parts = tuple[Tensor, ...]


class TextGraph(Graph):
    """Token ids and mask `(1, Lt)` to the hidden states `(1, Lt, D)` of the layers in use."""

    def __init__(self, model: Qwen3Model, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        width = model.config.hidden_size
        self.inputs = (Port("ids", "int64", (1, "Lt")), Port("mask", "int64", (1, "Lt")))
        self.outputs = tuple(Port(f"state_{layer}", "model", (1, "Lt", width)) for layer in layers)

    def forward(self, ids: Tensor, mask: Tensor) -> Parts:
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return tuple(states.hidden_states[layer] for layer in self.layers)


class VaeEncoderGraph(Graph):
    """Pixels `(B, 3, Y, X)` in [-1, 1] to the posterior's mean `(B, c, y, x)`."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.vae = vae
        self.inputs = (Port("pixels", "model", ("B", 3, "Y", "X")),)
        self.outputs = (Port("latents", "model", ("B", vae.config.latent_channels, "y", "x")),)

    def forward(self, pixels: Tensor) -> Parts:
        moments = self.vae.encoder(pixels)
        if self.vae.quant_conv is not None:
            moments = self.vae.quant_conv(moments)
        return (moments.chunk(2, dim=1)[0],)


class VaeDecoderGraph(Graph):
    """Latents `(B, c, y, x)` to pixels `(B, 3, Y, X)` around [-1, 1]."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.vae = vae
        self.inputs = (Port("latents", "model", ("B", vae.config.latent_channels, "y", "x")),)
        self.outputs = (Port("pixels", "model", ("B", 3, "Y", "X")),)

    def forward(self, latents: Tensor) -> Parts:
        if self.vae.post_quant_conv is not None:
            latents = self.vae.post_quant_conv(latents)
        return (self.vae.decoder(latents),)
