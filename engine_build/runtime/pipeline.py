"""From an instruction and reference pictures to a picture: the parts of a checkpoint, joined.

A `LatentState` is one picture on its way; `advance` takes any states one step further in one packed forward, each
at its own noise level, so that requests of different sizes, steps and reference counts share the work.
`generate` runs a single state to its end.

Letters: L target tokens, C channels of a token, h, w token rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from engine_build.cache_keys import latents_key, reference_key
from engine_build.engine import ImageInput
from engine_build.errors import CheckpointError, EngineError, RequestError
from engine_build.model.adapter_bank import AdapterBank
from engine_build.model.adapters import Mixture
from engine_build.model.autoencoder import Autoencoder
from engine_build.model.host_device import upload
from engine_build.model.mmdit import MMDiT
from engine_build.model.packing import PackedBatch, Reference, Sequence, grid_ids, pack
from engine_build.model.reference_kv import ReferenceKV
from engine_build.model.text_encoder import TextEncoder
from engine_build.request.reference_pictures import named_by_pixels
from engine_build.runtime.caches import Caches
from engine_build.runtime.cuda_graphs import Eager, GraphSteps, Step, Stepper
from engine_build.runtime.latent_state import Conditioning, LatentState
from engine_build.runtime.running_request import RequestMeter
from engine_build.runtime.sampling import Schedule, euler_step, noise, predict_x0
from kernels.routes import Pairs

SLOT = 10  # the t-coordinate of reference i is SLOT * (i + 1); the target's is 0


@dataclass
class Pipeline:
    """A checkpoint's parts on one device. Not thread-safe; an engine gives it one batch at a time."""

    model: MMDiT
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    schedule: Schedule
    caches: Caches
    checkpoint_id: str
    stepper: Stepper | None = None
    bank: AdapterBank | None = None
    _packed: tuple[list[LatentState], list[Pairs], Step] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        config = self.model.config
        if config.in_channels != self.autoencoder.channels:
            raise CheckpointError(
                f"the transformer reads {config.in_channels} channels, "
                f"the autoencoder makes {self.autoencoder.channels}"
            )
        if config.joint_attention_dim != self.text_encoder.width:
            raise CheckpointError(
                f"the transformer reads text of width {config.joint_attention_dim}, "
                f"the text encoder makes {self.text_encoder.width}"
            )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.inference_mode()
    def condition(
        self,
        instruction: str,
        pictures: Several[ImageInput],
        meter: RequestMeter | None = None,
        mixture: Mixture = (),
    ) -> Conditioning:
        """Text and fitted reference pictures, in the order of their slots, ready to begin pictures from.

        `isolated` references come from the cache where they can; `shared` ones are encoded once, together. Both, and
        each step, go through the adapters of the mixture. Raises EngineError when there is no bank for them.
        """
        meter = meter or RequestMeter()
        made = Conditioning(self._text(instruction, meter), mixture=mixture, events=meter.events)
        mode = self.model.config.reference_attention
        if self.bank is not None:
            self.bank.count_hits(mixture, meter.events)
        if not pictures:
            return made
        if mode == "isolated":
            return replace(made, kv=self._isolated(pictures, meter, made))
        references = self._references(pictures, [SLOT * (i + 1) for i in range(len(pictures))], meter)
        if mode == "joint":
            return replace(made, references=references)
        with meter.timed("denoise", self.device):
            return replace(made, kv=self.model.encode_references(self._alone(references, made)))

    @torch.inference_mode()
    def begin(
        self,
        conditioning: Conditioning,
        size: tuple[int, int],
        steps: int,
        *,
        seed: int = 0,
        start: Tensor | None = None,
    ) -> LatentState:
        """A fresh state of (width, height) pixels, from the seed's noise or from `start` `(C, h, w)`.

        Raises RequestError for a size that is not in whole tokens, or noise of another shape.
        """
        width, height = size
        side, channels = self.autoencoder.token_pixels, self.autoencoder.channels
        if width < side or height < side or width % side or height % side:
            raise RequestError(f"size {width}x{height} must be in multiples of {side} pixels")
        rows, columns = height // side, width // side
        if start is None:
            x = noise(seed, channels, rows, columns)
        elif start.shape == (channels, rows, columns):
            x = start.float().flatten(1).T.contiguous()
        else:
            raise RequestError(f"noise {tuple(start.shape)} must be {(channels, rows, columns)} for {width}x{height}")
        device = self.device
        sigmas = self.schedule.sigmas(rows * columns, steps)
        x, ids, levels = (upload(tensor, device) for tensor in (x, grid_ids(rows, columns), sigmas))
        return LatentState(conditioning, x, ids, rows, columns, tuple(sigmas.tolist()), levels)

    @torch.inference_mode()
    def advance(self, states: Several[LatentState]) -> list[Tensor]:
        """One Euler step of every state in one forward; returns their clean predictions `(C, h, w)`.

        Nothing is copied between host and device and nothing waited for, once a set of states was packed. When
        it raises, no state has moved. Raises EngineError when a state is finished already, and for none at all.
        """
        if not states or any(state.done for state in states):
            raise EngineError("every state of a forward needs a step to take")
        step = self._step(states)
        sigma = torch.stack([state.levels[state.step] for state in states])
        velocity = step(torch.cat([state.x for state in states]), sigma)
        moved, clean = [], []
        for state, v in zip(states, velocity.split([len(state.x) for state in states]), strict=True):
            now, after = state.sigmas[state.step], state.sigmas[state.step + 1]
            clean.append(self._grid(predict_x0(state.x, v, now), state))
            moved.append(euler_step(state.x, v, now, after))
        for state, x in zip(states, moved, strict=True):
            state.x = x
            state.step += 1
        return clean

    def release(self) -> None:
        """Lets go of the last batch, which is kept so that its next step need not be packed again."""
        self._packed = None

    def free_memory(self) -> None:
        """Gives back what later requests would only have been quicker for: caches, graphs, spare blocks."""
        self.release()
        self.caches.clear()
        if isinstance(self.stepper, GraphSteps):
            self.stepper.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def decode(self, state: LatentState) -> Image.Image:
        """The picture of a finished state. Raises EngineError when its numbers are not finite."""
        tokens = self._grid(state.x, state)
        if not bool(torch.isfinite(tokens).all()):
            raise EngineError("the model produced numbers that are not finite")
        return self.autoencoder.decode(tokens)

    def generate(
        self,
        instruction: str,
        pictures: Several[Image.Image],
        size: tuple[int, int],
        steps: int,
        *,
        seed: int = 0,
        start: Tensor | None = None,
    ) -> Image.Image:
        """One picture from an instruction and fitted reference pictures, in the order of their slots."""
        named = [named_by_pixels(picture) for picture in pictures]
        state = self.begin(self.condition(instruction, named), size, steps, seed=seed, start=start)
        while not state.done:
            self.advance([state])
        self.release()
        return self.decode(state)

    def _step(self, states: Several[LatentState]) -> Step:
        """The step of these states together, packed unless they were the last ones asked for.

        Their adapters are made resident first. Where one lies elsewhere than it did, the step is packed again.
        """
        pairs = self._placed([state.conditioning for state in states])
        if self._packed is not None:
            held, places, step = self._packed
            if pairs == places and [id(d) for d in held] == [id(d) for d in states]:
                return step
        self._packed = None
        batch = pack(
            [
                Sequence(
                    text=state.conditioning.text,
                    target=state.x,
                    target_ids=state.ids,
                    sigma=state.levels[state.step],
                    references=state.conditioning.references,
                    adapters=own,
                )
                for state, own in zip(states, pairs, strict=True)
            ]
        )
        encoded = [[] if state.conditioning.kv is None else [state.conditioning.kv] for state in states]
        kv: ReferenceKV | None = None
        if len(states) == 1:
            kv = states[0].conditioning.kv
        elif any(encoded):
            kv = ReferenceKV.join(encoded)
        step = (self.stepper or Eager(self.model)).prepare(batch, kv)
        self._packed = (list(states), pairs, step)
        return step

    def _placed(self, conditionings: Several[Conditioning]) -> list[Pairs]:
        """Where the adapters of each lie, all of them resident."""
        mixtures = [conditioning.mixture for conditioning in conditionings]
        if self.bank is None:
            if any(mixtures):
                raise EngineError(f"the {self.model.kernels.name} backend has no bank for adapters")
            return [() for _ in mixtures]
        return self.bank.hold(mixtures, [conditioning.events for conditioning in conditionings])

    def _isolated(self, pictures: Several[ImageInput], meter: RequestMeter, of: Conditioning) -> ReferenceKV:
        """References kept at t = 0 under their content and adapters, turned into this request's slots."""

        def encode(missing: list[int]) -> list[ReferenceKV]:
            references = self._references([pictures[i] for i in missing], [0] * len(missing), meter)
            with meter.timed("denoise", self.device):
                encoded = self.model.encode_references(self._alone(references, of), place=False)
                return [_compact(kv) for kv in encoded.single()]

        adapters = tuple((adapter.version, scale) for adapter, scale in of.mixture)
        keys = [
            reference_key(self.checkpoint_id, picture.content_hash, picture.image.size, adapters)
            for picture in pictures
        ]
        found = meter.fetch("reference_kv", self.caches.reference_kv, keys, encode)
        slots = upload(torch.arange(1, len(found) + 1) * SLOT, self.device)
        with meter.timed("denoise", self.device):
            return self.model.place(ReferenceKV.join([found]), slots)

    def _references(
        self, pictures: Several[ImageInput], slots: Several[int], meter: RequestMeter
    ) -> tuple[Reference, ...]:
        """Tokens of fitted pictures, known again by content hash and size, at t = their slot."""

        def encode(missing: list[int]) -> list[Tensor]:
            made: dict[int, Tensor] = {}
            for size in dict.fromkeys(pictures[i].image.size for i in missing):
                alike = [i for i in missing if pictures[i].image.size == size]
                encoded = self.autoencoder.encode([pictures[i].image for i in alike])
                made.update((i, latents.clone()) for i, latents in zip(alike, encoded, strict=True))
            return [made[i] for i in missing]

        keys = [latents_key(picture.content_hash, picture.image.size) for picture in pictures]
        with meter.timed("vae_encode", self.device):
            found = meter.fetch("latents", self.caches.latents, keys, encode)  # (C, h, w) each
        return tuple(
            Reference(
                latents.flatten(1).T.contiguous(),
                upload(grid_ids(latents.shape[1], latents.shape[2], slot), self.device),
            )
            for latents, slot in zip(found, slots, strict=True)
        )

    def _text(self, instruction: str, meter: RequestMeter) -> Tensor:
        with meter.timed("text", self.device):
            (text,) = meter.fetch(
                "text", self.caches.text, [instruction], lambda _: [self.text_encoder.encode(instruction)]
            )
            return text

    def _alone(self, references: tuple[Reference, ...], of: Conditioning) -> PackedBatch:
        """A batch that holds only references, with their request's adapters; its text and target are never read."""
        (own,) = self._placed([of])
        nothing = references[0].tokens[:0]
        ids = references[0].ids[:0]
        text = nothing.new_zeros(0, self.model.config.joint_attention_dim)
        return pack(
            [Sequence(text=text, target=nothing, target_ids=ids, sigma=0.0, references=references, adapters=own)]
        )

    def _grid(self, tokens: Tensor, state: LatentState) -> Tensor:
        return tokens.T.reshape(-1, state.rows, state.columns)  # (C, h, w)


def _compact(kv: ReferenceKV) -> ReferenceKV:
    """A copy that owns exactly its bytes: what the layers return may be views of far larger tensors."""
    return ReferenceKV(
        tuple(key.contiguous().clone() for key in kv.keys),
        tuple(value.contiguous().clone() for value in kv.values),
        kv.segments,
        kv.counts,
        kv.slots.clone(),
    )
