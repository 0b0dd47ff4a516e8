"""Pictures to tokens and back by the frozen autoencoder, as every network in training reads and writes them.

Letters: N pictures, H, W their size, L tokens of one, C channels of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

PASS_PIXELS = 2 << 20
"""Most pixels of one pass of the autoencoder: its activations at full size take gigabytes a megapixel."""


class Encoder:
    """The frozen autoencoder as a batched function from pictures in [0, 1] to normalised tokens."""

    def __init__(self, vae: torch.nn.Module) -> None:
        self.vae = vae.eval().requires_grad_(False)
        if vae.bn.running_mean.device.type == "cpu":
            self.vae.to(memory_format=torch.channels_last)  # a CPU's convolutions are a quarter faster so
        self.mean = vae.bn.running_mean.view(1, -1, 1, 1)
        self.std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
        self.token_pixels = 2 ** len(vae.config.block_out_channels)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to (N, L, C), rows first."""
        return torch.cat([self._encoded(part) for part in x.split(self._together(*x.shape[2:]))])

    @torch.no_grad()
    def decode(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(N, L, C) back to (N, 3, height, width) in [0, 1]."""
        parts = tokens.split(self._together(height, width))
        return torch.cat([self.unclamped(part, height, width).clamp(0, 1) for part in parts])

    def unclamped(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(N, L, C) to (N, 3, height, width), beyond [0, 1] too, with gradients to the tokens."""
        pixels = self.token_pixels
        grid = tokens.transpose(1, 2).unflatten(2, (height // pixels, width // pixels))
        z = torch.nn.functional.pixel_shuffle(grid * self.std + self.mean, 2)
        return self.vae.decode(z).sample * 0.5 + 0.5

    def _encoded(self, x: Tensor) -> Tensor:
        z = self.vae.encode(x.to(self.device) * 2 - 1).latent_dist.mode()
        tokens = (torch.nn.functional.pixel_unshuffle(z, 2) - self.mean) / self.std
        return tokens.flatten(2).transpose(1, 2).contiguous()

    @staticmethod
    def _together(height: int, width: int) -> int:
        """Pictures of one pass."""
        return max(1, PASS_PIXELS // (height * width))
