"""A local folder of pictures: closed to others, and to newcomers before the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import StoreUnavailable
from service.jobs.blobs import BlobStore
from service.jobs.picture_folder import PictureFolder
from service.settings import load_settings


@pytest.mark.parametrize(
    ("free", "closed"), [(2000, []), (1999, ["garment"]), (1000, ["garment"]), (999, ["garment", "input"]), (0, None)]
)
def test_the_last_bytes_are_for_what_was_accepted(tmp_path: Path, free: int, closed: list[str] | None) -> None:
    folder = PictureFolder(tmp_path, 1000, free=lambda _: free)
    refused = []
    for kind in ("garment", "input", "result"):
        try:
            folder.check_room(kind)
        except StoreUnavailable as error:
            assert error.code == "storage-full" and error.retryable and error.retry_after
            refused.append(kind)
    assert refused == (["garment", "input"] if closed is None else closed)


async def test_a_full_disk_takes_results_only(tmp_path: Path) -> None:
    blobs = BlobStore.open(load_settings(data_dir=tmp_path, disk_reserve_bytes=1 << 60))
    for kind in ("garment", "input"):
        with pytest.raises(StoreUnavailable, match="nearly full"):
            await blobs.put(b"x", kind=kind, content_type="image/png")
    assert await blobs.get(await blobs.put(b"x", kind="result", content_type="image/png")) == b"x"


async def test_a_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    old = tmp_path / "blobs" / "input"
    old.mkdir(parents=True, mode=0o755)
    blobs = BlobStore.open(load_settings(data_dir=tmp_path))
    assert old.parent.stat().st_mode & 0o777 == 0o700
    key = await blobs.put(b"x", kind="input", content_type="image/png")
    path = old.parent / key
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent, old)] == [0o600, 0o700, 0o700]
