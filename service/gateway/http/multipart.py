"""The multipart parser, for parts whose file has only an extended name.

`filename*` (RFC 5987) is forbidden in forms (RFC 7578, section 4.2) and still all that some clients send for a name
that is not ASCII. The library leaves it out, and the part would be read as text.
"""

from __future__ import annotations

import re

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartParser

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)


class FormParser(MultiPartParser):
    """Reads a part that says `filename*` as a file. The name itself is not used."""

    def on_headers_finished(self) -> None:
        said = self._current_part.content_disposition or b""
        if b"filename" not in parse_options_header(said)[1] and _EXTENDED.search(_QUOTED.sub(b'""', said)):
            self._current_part.content_disposition = said + b'; filename="file"'
        super().on_headers_finished()
