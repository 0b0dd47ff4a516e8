"""Is this container well: exit 0 or 1, for container and Kubernetes probes.

    python -I health.py URL [LINE]

0 when URL answers 200 and, if LINE is given, its body has exactly that line. A worker has no /readyz; it is ready
when its metrics say `changeroom_worker_ready 1.0`. Only the standard library, so that it starts in milliseconds.
"""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def healthy(url: str, line: str | None) -> bool:
    """Whether `url` answers 200 and, when `line` is given, with that line in its body."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return answer.status == 200 and (line is None or line in answer.read().decode().splitlines())
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: health.py URL [LINE]")
    sys.exit(0 if healthy(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None) else 1)
