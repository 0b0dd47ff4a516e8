"""Results: marked as made by a trained model, and nothing else of any input in them."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.pictures.images import encode_result, open_photo, preview_jpeg
from service.pictures.provenance import XMP_PACKET

SECRET = "GPS-SECRET-52.5N"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def digital_source_type(xmp: str | bytes) -> str | None:
    """The DigitalSourceType that an XMP packet declares as an attribute, or None."""
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    found = re.search(r"Iptc4xmpExt:DigitalSourceType=\"([^\"]*)\"", text)
    return found.group(1) if found else None


def laden(mode: str = "RGB") -> Image.Image:
    """A picture whose every metadata slot that an encoder might copy holds something private."""
    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    source = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(
        source,
        "JPEG",
        exif=exif,
        comment=SECRET.encode(),
        icc_profile=profile,
        xmp=SECRET.encode(),
        dpi=(72, 72),
    )
    image = Image.open(io.BytesIO(source.getvalue()))
    assert image.info["comment"] and image.info["icc_profile"] and image.info["exif"] and image.info["xmp"]
    return image.convert(mode) if mode != "RGB" else image


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_result_carries_the_mark_and_nothing_else(format: str, mode: str) -> None:
    data = encode_result(laden(mode), format, 90)
    read = Image.open(io.BytesIO(data))
    assert read.format == format.upper() and read.mode == "RGB" and read.size == (48, 64)
    assert digital_source_type(read.info["xmp"]) == TRAINED
    assert SECRET.encode() not in data
    assert dict(read.getexif()) == {}
    allowed = {
        "xmp",
        "XML:com.adobe.xmp",
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "loop",
        "background",
    }
    assert set(read.info) <= allowed | {"timestamp", "duration"}
    assert data.count(b"DigitalSourceType") == 1


def test_the_packet_is_well_formed_and_holds_one_property() -> None:
    body = XMP_PACKET.split("?>", 1)[1].rsplit("<?", 1)[0]
    (description,) = ElementTree.fromstring(body).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    assert {name: value for name, value in description.attrib.items() if value} == {
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType": TRAINED
    }
    assert digital_source_type(XMP_PACKET.encode()) == TRAINED
    assert digital_source_type("<x:xmpmeta/>") is None


def test_png_is_lossless_and_quality_changes_a_jpeg() -> None:
    image = laden()
    png = Image.open(io.BytesIO(encode_result(image, "png")))
    assert png.tobytes() == image.convert("RGB").tobytes()
    assert len(encode_result(image, "jpeg", 50)) < len(encode_result(image, "jpeg", 95))


@pytest.mark.parametrize(("format", "quality"), [("gif", 90), ("jpeg", 0), ("webp", 101)])
def test_another_format_or_quality_is_refused(format: str, quality: int) -> None:
    with pytest.raises(ValueError, match=r"format|quality"):
        encode_result(laden(), format, quality)


def test_encoding_leaves_the_picture_it_was_given_alone() -> None:
    image = laden()
    before = dict(image.info)
    encode_result(image, "png")
    preview_jpeg(image)
    assert image.info == before and image.size == (48, 64)


def test_a_preview_is_small_and_plain() -> None:
    data = preview_jpeg(laden().resize((1200, 1600)))
    read = open_photo(data)
    assert read.size == (192, 256)
    assert SECRET.encode() not in data and b"Exif" not in data and b"ICC_PROFILE" not in data
    assert preview_jpeg(laden()).startswith(b"\xff\xd8")
