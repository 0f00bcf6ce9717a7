"""Small JSON documents that know when they are damaged: the last entry is the crc32c of the text before."""

import json
from typing import Any

import google_crc32c

_CHECKSUM = b',\n"crc32c":'


def canonical_json(value: Any) -> bytes:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII. Raises TypeError or ValueError (NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pack_record(content: dict[str, Any]) -> bytes:
    """The bytes of a record that holds `content`, which must not be empty."""
    return _with_checksum(canonical_json(content))


def pack_readable_record(content: dict[str, Any]) -> bytes:
    """The same, laid out for people."""
    return _with_checksum(json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode())


def unpack_record(data: bytes) -> dict[str, Any]:
    """The content of a record of either form. Raises ValueError when any byte is not as it was written."""
    body, _, checksum = data.rpartition(_CHECKSUM)
    if checksum != b"%d}" % google_crc32c.value(body):
        raise ValueError("its checksum does not match its content")
    return json.loads(body + b"}")


def _with_checksum(text: bytes) -> bytes:
    body = text.removesuffix(b"}").rstrip()
    return body + _CHECKSUM + b"%d}" % google_crc32c.value(body)
