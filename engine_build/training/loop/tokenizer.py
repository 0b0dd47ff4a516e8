"""A small byte-level BPE for a nano checkpoint, trained on the instruction grammar.

Phrases of the grammar ("the coat of image 3") are kept whole before merging, so an instruction for six
garments takes about twenty tokens; any other text still works, byte by byte.
"""

from __future__ import annotations

import itertools

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from engine_build.instruction import MAX_GARMENTS, NOUNS, PREFIX
from engine_build.training.data.world_edits import edit_of
from engine_build.world.instructions import instruction_of
from engine_build.world.scenes import sample_scene

PAD, END = "<|endoftext|>", "<|im_end|>"


def train(samples: int = 4000, vocabulary: int = 1024, edits: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `samples` instructions of training scenes and `edits` of general edits; deterministic."""
    nouns = "|".join(NOUNS.values())
    pieces = Regex(rf"{PREFIX.strip()}| the (?:{nouns}) of image \d| ?\w+|[^\w\s]|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    told = (instruction_of(sample_scene(seed, 1 + seed % MAX_GARMENTS)) for seed in range(samples))
    edited = (edit_of(number).instruction for number in range(edits))
    tokenizer.train_from_iterator(itertools.chain(told, edited), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512)
