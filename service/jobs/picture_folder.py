"""A local folder of pictures: only its owner may look into it, and it refuses new ones before the disk is full.

The folder's own mode keeps others out before a file has its own. Of the last free bytes the catalogue, which is for
later, gets nothing first; then new try-ons; what was accepted may use them to the end, so that every job can finish.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.errors import StoreUnavailable

log = logging.getLogger(__name__)

TRY_LATER_S = 60
SHARES = {"garment": 2, "input": 1}


class PictureFolder:
    """The folder at `root`, made when absent; `reserve_bytes` of its disk are left to results. `free` measures them."""

    def __init__(self, root: Path, reserve_bytes: int, *, free: Callable[[Path], int] | None = None) -> None:
        """Raises OSError when the folder cannot be made."""
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._free = free or _free
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            root.chmod(0o700)
        except PermissionError:
            log.warning("the picture folder belongs to somebody else, who decides on who may read it")

    def check_room(self, kind: str) -> None:
        """Raises StoreUnavailable (storage-full) when a picture of this kind would take what is reserved for others."""
        if self._free(self._root) < SHARES.get(kind, 0) * self._reserve_bytes:
            raise StoreUnavailable(
                "The disk for pictures is nearly full, so that nothing new is taken in; try again later.",
                code="storage-full",
                retry_after=TRY_LATER_S,
            )

    def keep_private(self, key: str) -> None:
        """Let only the owner read a picture that was just written, and list the folders above it that are its own."""
        path = self._root / key
        path.chmod(0o600)
        for folder in list(path.relative_to(self._root).parents)[:-1]:
            with suppress(PermissionError):
                (self._root / folder).chmod(0o700)


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free
