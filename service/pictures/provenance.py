"""The mark every result carries: IPTC DigitalSourceType trainedAlgorithmicMedia, in one small XMP packet.

IPTC Photo Metadata Standard 2023.1, "Digital Source Type"; the packet form is XMP part 1 (ISO 16684-1). The
value says that a trained model made the picture. Nothing else is written into a result.
"""

from __future__ import annotations

from typing import Any

from PIL import PngImagePlugin

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

XMP_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/>'
    "</rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


def marked(format: str) -> dict[str, Any]:
    """Pillow's arguments of `save` that write the mark into a "jpeg", "webp" or "png"."""
    if format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP_PACKET)
        return {"pnginfo": info}
    return {"xmp": XMP_PACKET.encode()}
