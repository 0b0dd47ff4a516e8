"""What a run will cost, before it is made, and what it has cost so far.

Tokens of pictures are an estimate: one for each 28 x 28 pixels of what is sent, as in Qwen's vision models; other
models count otherwise, by up to a few times. What has been spent is what the endpoint's `usage` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine_build.judging.calls import Endpoint, Question

_CHARACTERS_A_TOKEN = 4
_PIXELS_A_TOKEN = 28 * 28


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens, of what is read and of what is written."""

    read: float = 0.0
    written: float = 0.0

    def of(self, tokens: tuple[int, int]) -> float:
        """Dollars."""
        return (tokens[0] * self.read + tokens[1] * self.written) / 1e6


@dataclass(frozen=True)
class Estimate:
    """Of a run: questions still to ask, answers that are there, samples without a result, tokens (most, if written)."""

    questions: int
    answered: int
    absent: int
    read: int
    written: int

    def text(self, prices: Prices) -> str:
        """One paragraph."""
        cost = f", at most ${prices.of((self.read, self.written)):.2f}" if prices != Prices() else ""
        return (
            f"{self.questions} questions to ask, {self.answered} answered already, {self.absent} samples without a "
            f"result; about {self.read} tokens to read, at most {self.written} to write{cost}"
        )


def tokens_of(question: Question, endpoint: Endpoint) -> tuple[int, int]:
    """Tokens to read (estimated) and to write (the most that the settings allow; 800 where they do not say)."""
    read = (len(question.task) + len(str(question.schema))) // _CHARACTERS_A_TOKEN
    for picture in question.pictures:
        scale = min(1.0, endpoint.long_side / max(picture.size))
        read += max(1, round(picture.width * scale) * round(picture.height * scale) // _PIXELS_A_TOKEN)
    limits = [endpoint.decoding.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return read, next((limit for limit in limits if isinstance(limit, int)), 800)
