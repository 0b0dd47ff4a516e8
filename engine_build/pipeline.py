"""From an instruction and reference pictures to a picture: the parts of a checkpoint, joined.

A `Draft` is one picture on its way; `advance` takes any drafts one step further in one packed forward, each
at its own noise level, so that requests of different sizes, steps and reference counts share the work.
`generate` runs a single draft to its end.

Letters: L target tokens, C channels of a token, h, w token rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from engine_build.autoencoder import Autoencoder
from engine_build.draft import Conditioning, Draft
from engine_build.engine import ImageInput
from engine_build.errors import CheckpointError, EngineError, RequestError
from engine_build.graphs import Eager, GraphSteps, Step, Stepper
from engine_build.ledger import Ledger
from engine_build.model import MMDiT
from engine_build.packing import PackedBatch, Reference, Sequence, grid_ids, pack
from engine_build.reference_cache import Caches
from engine_build.references import named_by_pixels
from engine_build.sampling import Schedule, euler_step, noise, predict_x0
from engine_build.stage import ReferenceKV
from engine_build.text_encoder import TextEncoder
from engine_build.transfer import upload

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
    _packed: tuple[list[Draft], Step] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.stepper is None:
            self.stepper = Eager(self.model)
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
    def condition(self, instruction: str, pictures: Several[ImageInput], ledger: Ledger | None = None) -> Conditioning:
        """Text and fitted reference pictures, in the order of their slots, ready for drafts.

        `isolated` references come from the cache where they can; `shared` ones are encoded once, together.
        """
        ledger = ledger or Ledger()
        text = self._text(instruction, ledger)
        mode = self.model.config.reference_attention
        if not pictures:
            return Conditioning(text)
        if mode == "isolated":
            return Conditioning(text, kv=self._isolated(pictures, ledger))
        references = self._references(pictures, [SLOT * (i + 1) for i in range(len(pictures))], ledger)
        if mode == "joint":
            return Conditioning(text, references)
        with ledger.timed("denoise", self.device):
            return Conditioning(text, kv=self.model.encode_references(self._alone(references)))

    @torch.inference_mode()
    def draft(
        self,
        conditioning: Conditioning,
        size: tuple[int, int],
        steps: int,
        *,
        seed: int = 0,
        start: Tensor | None = None,
    ) -> Draft:
        """A fresh draft of (width, height) pixels, from the seed's noise or from `start` `(C, h, w)`.

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
        return Draft(conditioning, x, ids, rows, columns, tuple(sigmas.tolist()), levels)

    @torch.inference_mode()
    def advance(self, drafts: Several[Draft]) -> list[Tensor]:
        """One Euler step of every draft in one forward; returns their clean predictions `(C, h, w)`.

        Nothing is copied between host and device and nothing waited for, once a set of drafts was packed. When
        it raises, no draft has moved. Raises EngineError when a draft is finished already, and for none at all.
        """
        if not drafts or any(draft.done for draft in drafts):
            raise EngineError("every draft of a forward needs a step to take")
        step = self._step(drafts)
        sigma = torch.stack([draft.levels[draft.step] for draft in drafts])
        velocity = step(torch.cat([draft.x for draft in drafts]), sigma)
        moved, clean = [], []
        for draft, v in zip(drafts, velocity.split([len(draft.x) for draft in drafts]), strict=True):
            now, after = draft.sigmas[draft.step], draft.sigmas[draft.step + 1]
            clean.append(self._grid(predict_x0(draft.x, v, now), draft))
            moved.append(euler_step(draft.x, v, now, after))
        for draft, x in zip(drafts, moved, strict=True):
            draft.x = x
            draft.step += 1
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

    def decode(self, draft: Draft) -> Image.Image:
        """The picture of a finished draft. Raises EngineError when its numbers are not finite."""
        tokens = self._grid(draft.x, draft)
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
        draft = self.draft(self.condition(instruction, named), size, steps, seed=seed, start=start)
        while not draft.done:
            self.advance([draft])
        self.release()
        return self.decode(draft)

    def _step(self, drafts: Several[Draft]) -> Step:
        """The step of these drafts together, packed unless they were the last ones asked for."""
        if self._packed is not None and [id(d) for d in self._packed[0]] == [id(d) for d in drafts]:
            return self._packed[1]
        self._packed = None
        batch = pack(
            [
                Sequence(
                    text=draft.conditioning.text,
                    target=draft.x,
                    target_ids=draft.ids,
                    sigma=draft.levels[draft.step],
                    references=draft.conditioning.references,
                )
                for draft in drafts
            ]
        )
        held = [[] if draft.conditioning.kv is None else [draft.conditioning.kv] for draft in drafts]
        kv: ReferenceKV | None = None
        if len(drafts) == 1:
            kv = drafts[0].conditioning.kv
        elif any(held):
            kv = ReferenceKV.join(held)
        step = self.stepper.prepare(batch, kv)
        self._packed = (list(drafts), step)
        return step

    def _isolated(self, pictures: Several[ImageInput], ledger: Ledger) -> ReferenceKV:
        """References kept at t = 0 under their content, turned into this request's slots."""

        def encode(missing: list[int]) -> list[ReferenceKV]:
            references = self._references([pictures[i] for i in missing], [0] * len(missing), ledger)
            with ledger.timed("denoise", self.device):
                encoded = self.model.encode_references(self._alone(references), place=False)
                return [_compact(kv) for kv in encoded.single()]

        keys = [(self.checkpoint_id, picture.content_hash, picture.image.size) for picture in pictures]
        found = ledger.fetch("reference_kv", self.caches.reference_kv, keys, encode)
        slots = upload(torch.arange(1, len(found) + 1) * SLOT, self.device)
        with ledger.timed("denoise", self.device):
            return self.model.place(ReferenceKV.join([found]), slots)

    def _references(self, pictures: Several[ImageInput], slots: Several[int], ledger: Ledger) -> tuple[Reference, ...]:
        """Tokens of fitted pictures, known again by content hash and size, at t = their slot."""

        def encode(missing: list[int]) -> list[Tensor]:
            made: dict[int, Tensor] = {}
            for size in dict.fromkeys(pictures[i].image.size for i in missing):
                alike = [i for i in missing if pictures[i].image.size == size]
                encoded = self.autoencoder.encode([pictures[i].image for i in alike])
                made.update((i, latents.clone()) for i, latents in zip(alike, encoded, strict=True))
            return [made[i] for i in missing]

        keys = [(picture.content_hash, picture.image.size) for picture in pictures]
        with ledger.timed("vae_encode", self.device):
            found = ledger.fetch("latents", self.caches.latents, keys, encode)  # (C, h, w) each
        return tuple(
            Reference(latents.flatten(1).T.contiguous(), upload(grid_ids(*latents.shape[1:], slot), self.device))
            for latents, slot in zip(found, slots, strict=True)
        )

    def _text(self, instruction: str, ledger: Ledger) -> Tensor:
        with ledger.timed("text", self.device):
            (text,) = ledger.fetch(
                "text", self.caches.text, [instruction], lambda _: [self.text_encoder.encode(instruction)]
            )
            return text

    def _alone(self, references: tuple[Reference, ...]) -> PackedBatch:
        """A batch that holds only references; its text and target are never read."""
        nothing = references[0].tokens[:0]
        ids = references[0].ids[:0]
        text = nothing.new_zeros(0, self.model.config.joint_attention_dim)
        return pack([Sequence(text=text, target=nothing, target_ids=ids, sigma=0.0, references=references)])

    def _grid(self, tokens: Tensor, draft: Draft) -> Tensor:
        return tokens.T.unflatten(1, (draft.rows, draft.columns))  # (C, h, w)


def _compact(kv: ReferenceKV) -> ReferenceKV:
    """A copy that owns exactly its bytes: what the layers return may be views of far larger tensors."""
    return ReferenceKV(
        tuple(key.contiguous().clone() for key in kv.keys),
        tuple(value.contiguous().clone() for value in kv.values),
        kv.segments,
        kv.counts,
        kv.slots.clone(),
    )
