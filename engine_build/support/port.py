"""Where regions come from, chosen by name: `caller`, whose mask is E itself, or a registered parser, `KIND[:MODEL]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import Image

from engine_build.support.caller_mask import read_mask
from engine_build.support.domains import Domain
from engine_build.support.edit_support import PLAIN, Options, drawn_support, edit_support
from engine_build.support.errors import SupportError
from engine_build.support.regions import Mask, RegionMap

Provider = Callable[[Image.Image], RegionMap]
"""Regions of an upright RGB photo, at any size of its aspect. Raises SupportError where it cannot tell them."""
CALLER = "caller"


class Providers:
    """Parsers by name, each made once, when it is first asked for. Not for several threads at once.

    `makers` are told what follows the first colon of a name, which says which model.
    """

    def __init__(self, makers: Mapping[str, Callable[[str], Provider]]) -> None:
        self._makers, self._made = dict(makers), dict[str, Provider]()

    def named(self, name: str) -> Provider:
        """The parser of a name. Raises SupportError for a kind that is not registered."""
        if name not in self._made:
            kind, _, model = name.partition(":")
            if kind not in self._makers:
                known = ", ".join((CALLER, *self._makers))
                raise SupportError("unknown-provider", f"regions come from {known}, not from {kind!r}")
            self._made[name] = self._makers[kind](model)
        return self._made[name]


def support_of(
    photo: Image.Image,
    domain: Domain,
    options: Options = PLAIN,
    *,
    by: str,
    providers: Providers,
    mask: Image.Image | None = None,
) -> Mask:
    """E (h, w) of an upright photo: the caller's `mask`, or what the function makes of a parser's regions.

    A mask beside a parser is E, too, after it was held against the regions. Raises SupportError.
    """
    read = None if mask is None else read_mask(mask, photo.size, domain)
    if by == CALLER:
        if read is None:
            raise SupportError("mask-missing", "regions from the caller need a mask: white where the photo may change")
        return drawn_support(read, None, domain)
    regions = providers.named(by)(photo)
    if read is not None:
        return drawn_support(read, regions, domain)
    return edit_support(regions, domain, options, size=photo.size)
