"""The W3C trace of a request, where the engine passes it on: https://www.w3.org/TR/trace-context/."""
from __future__ import annotations

import re
from collections.abc import Mapping

# Later versions may have more behind the flags, and begin alike.
_TRACEPARENT = re.compile(r'([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?')


def trace_id(headers: Mapping[str, str] | None) -> bytes | None:
    """The 16 bytes of `traceparent` among headers of any letter case; None: there is none that is right."""
    for name, value in (headers or {}).items():
        if name.lower() != 'traceparent' or not isinstance(value, str):
            continue
        match = _TRACEPARENT.fullmatch(value.strip())
        if match is None or match[1] == 'ff' or (match[1] == '00' and match[4] is not None):
            return None
        if not int(match[2], 16) or not int(match[3], 16):
            return None
        return bytes.fromhex(match[2])
    return None
