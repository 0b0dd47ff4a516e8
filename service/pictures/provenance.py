"""The mark every result carries: IPTC DigitalSourceType trainedAlgorithmicMedia, in one small XMP packet.

IPTC Photo Metadata Standard 2023.1, "Digital Source Type"; the packet form is XMP part 1 (ISO 16684-1). The
value says that a trained model made the picture. Nothing else is written into a result.
"""

from __future__ import annotations

import re

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

_MARK = re.compile(r"Iptc4xmpExt:DigitalSourceType=\"([^\"]*)\"")


def digital_source_type(xmp: str | bytes) -> str | None:
    """The DigitalSourceType that an XMP packet declares as an attribute, or None."""
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    found = _MARK.search(text)
    return found.group(1) if found else None
