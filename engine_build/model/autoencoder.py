"""Pictures to normalised tokens and back, around diffusers' AutoencoderKLFlux2.

A token covers a 2x2 patch of latents, so `scale * 2` pixels a side: 16 for klein, 8 for nano. Tokens are
normalised with the autoencoder's batch-norm statistics, as FLUX.2 was trained.

Letters: C channels of a token (4 times the latent channels), h, w token rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine_build.config import read_json
from engine_build.errors import CheckpointError
from engine_build.model.host_device import Landing, upload
from engine_build.model.preview import LinearPreview
from kernels import Kernels

ENCODE_PIXELS = 4 << 20  # at a time: about 9 GiB of activations in bfloat16 for klein's autoencoder
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class NormSilu(nn.Module):
    """A GroupNorm and the SiLU behind it as one kernel."""

    def __init__(self, norm: nn.GroupNorm, kernel: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm, self.kernel = norm, kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x, self.norm.num_groups, self.norm.weight, self.norm.bias, self.norm.eps)


class Autoencoder:
    """An AutoencoderKLFlux2 in inference. `encode` is deterministic: the mean of the posterior.

    With Triton kernels it runs channels-last, its norms and activations fused in that layout, and on a CPU, whose
    convolutions are a quarter faster so; else in torch's own layout, where a GPU's own norms are fast.
    """

    def __init__(self, vae: AutoencoderKLFlux2, kernels: Kernels | None = None) -> None:
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        if tuple(config.patch_size) != (2, 2):
            raise CheckpointError(f"vae: patch_size {tuple(config.patch_size)} is not supported, only (2, 2)")
        self.scale: int = 2 ** (len(config.block_out_channels) - 1)
        self.token_pixels: int = 2 * self.scale
        self.channels: int = 4 * config.latent_channels
        variance = vae.bn.running_var.float() + config.batch_norm_eps
        fused = kernels is not None and kernels.fused
        on_cpu = variance.device.type == "cpu"
        self._layout = torch.channels_last if fused or on_cpu else torch.contiguous_format
        self.vae.to(memory_format=self._layout)
        if kernels is not None and fused:
            fuse_norms(self.vae, kernels)
        self._mean: Tensor = vae.bn.running_mean.float().view(1, -1, 1, 1)
        self._std: Tensor = variance.sqrt().view(1, -1, 1, 1)
        self._preview = LinearPreview(self.encode, self.pixels, self.token_pixels)

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device, dtype: torch.dtype, kernels: Kernels | None = None
    ) -> Self:
        """From a checkpoint folder's `vae/`, strictly. Raises CheckpointError naming what does not fit."""
        home = folder / "vae"
        config = read_json(home / "config.json")
        name = config.get("_class_name", "AutoencoderKLFlux2")
        if name != "AutoencoderKLFlux2":
            raise CheckpointError(f"{home}: {name} is not supported, only AutoencoderKLFlux2")
        try:
            with torch.device("meta"):
                vae = AutoencoderKLFlux2.from_config(config)
            weights = {
                name: tensor if name.startswith("bn.") else tensor.to(dtype)
                for name, tensor in load_file(home / _WEIGHTS).items()
            }
            vae.load_state_dict(weights, strict=True, assign=True)
        except FileNotFoundError as error:
            raise CheckpointError(f"{home / _WEIGHTS} is missing") from error
        except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{home} does not load: {' '.join(str(error).split())}") from error
        return cls(vae.to(device), kernels)

    @property
    def device(self) -> torch.device:
        return self._mean.device

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Normalised tokens `(N, C, h, w)`, float32, of N RGB pictures of one size in whole tokens."""
        at_once = max(1, ENCODE_PIXELS // max(1, images[0].width * images[0].height))
        return torch.cat([self._encode(images[i : i + at_once]) for i in range(0, len(images), at_once)])

    def _encode(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
        x = upload(torch.from_numpy(pixels), self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents: Tensor = self.vae.encode(x.to(self.vae.dtype, memory_format=self._layout)).latent_dist.mode()
        return (_patchify(latents.contiguous()).float() - self._mean) / self._std

    @torch.inference_mode()
    def decode(self, tokens: Tensor) -> Image.Image:
        """The RGB picture of normalised tokens `(C, h, w)`."""
        return picture(Landing(self.pixels(tokens), self.device))

    @torch.inference_mode()
    def pixels(self, tokens: Tensor) -> Tensor:
        """`decode` as a tensor on the device: `(H, W, 3)` uint8."""
        return self._decode(_unpatchify(tokens[None].float() * self._std + self._mean))

    def preview(self, tokens: Tensor, longest: int = 256) -> Image.Image:
        """A small picture of unfinished tokens `(C, h, w)`, at most `longest` pixels a side, without the decoder."""
        return picture(Landing(self.preview_pixels(tokens, longest), self.device))

    def preview_pixels(self, tokens: Tensor, longest: int = 256) -> Tensor:
        """`preview` as a tensor on the device: `(H, W, 3)` uint8."""
        return self._preview.pixels(tokens, longest)

    def _decode(self, latents: Tensor) -> Tensor:
        given = latents.to(self.vae.dtype, memory_format=self._layout)
        x: Tensor = self.vae.decode(given, return_dict=False)[0][0]
        return ((x.float() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def fuse_norms(vae: nn.Module, kernels: Kernels) -> int:
    """Puts one kernel in the place of every GroupNorm with a SiLU behind it; returns how many there were."""
    fused = 0
    for module in list(vae.modules()):
        if isinstance(module, ResnetBlock2D) and isinstance(module.nonlinearity, nn.SiLU):
            names: tuple[str, ...] = ("norm1", "norm2")
            module.nonlinearity = nn.Identity()
        elif isinstance(getattr(module, "conv_norm_out", None), nn.GroupNorm) and isinstance(module.conv_act, nn.SiLU):
            names = ("conv_norm_out",)
            module.conv_act = nn.Identity()
        else:
            continue
        for name in names:
            setattr(module, name, NormSilu(getattr(module, name), kernels.group_norm_silu))
            fused += 1
    return fused


def picture(landing: Landing) -> Image.Image:
    """The RGB picture of pixels `(H, W, 3)` uint8 on their way to the host. Raises ValueError when there are none."""
    pixels = landing.wait()
    if pixels is None:
        raise ValueError("nothing but a moment is on its way")
    return Image.fromarray(pixels.numpy())


def _patchify(latents: Tensor) -> Tensor:
    n, c, height, width = latents.shape  # (n, c, 2h, 2w)
    x = latents.view(n, c, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * 4, height // 2, width // 2)  # (n, 4c, h, w)


def _unpatchify(tokens: Tensor) -> Tensor:
    n, c, height, width = tokens.shape  # (n, 4c, h, w)
    x = tokens.reshape(n, c // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, height * 2, width * 2)  # (n, c, 2h, 2w)
