"""Record batches as a broker stores them, made byte by byte, and how to have it store one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import closing
from warnings import catch_warnings, simplefilter

from crc32c import crc32c

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas the old way.
    from kafka.record.default_records import DefaultRecordBatchBuilder

#: Time in milliseconds, key, value, headers.
Message = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
NO_COMPRESSION = 0
CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, COMPLETE_AT = 17, 21, 23, 57
_ANSWER_SECONDS = 10.0


def batch_bytes(
    messages: Sequence[Message],
    *,
    base: int = 0,
    codec: int = NO_COMPRESSION,
    producer: int = -1,
    is_transactional: bool = False,
    attributes: int = 0,
) -> bytes:
    """Return a batch as the broker stores it, with these attributes beside its own."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=is_transactional,
        producer_id=producer,
        producer_epoch=0 if producer >= 0 else -1,
        base_sequence=0 if producer >= 0 else -1,
        batch_size=10_000_000,
    )
    for number, (timestamp, key, value, headers) in enumerate(messages):
        builder.append(number, timestamp=timestamp, key=key, value=value, headers=headers)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    (found,) = struct.unpack_from(">h", data, ATTRIBUTES_AT)
    struct.pack_into(">h", data, ATTRIBUTES_AT, found | attributes)
    return with_sum(data)


def with_sum(data: bytearray) -> bytes:
    """Return a batch with the checksum that it ought to have."""
    struct.pack_into(">I", data, CRC_AT, crc32c(bytes(data[ATTRIBUTES_AT:])))
    return bytes(data)


def produce_raw(address: str, topic: str, partition: int, batch: bytes) -> int:
    """Have a broker store a batch as it is, as any client may; return the offset it begins at."""
    host, _, port = address.rpartition(":")
    name = struct.pack(">h", len(topic)) + topic.encode()
    places = struct.pack(">i", 1) + name + struct.pack(">iii", 1, partition, len(batch)) + batch
    body = struct.pack(">hhi", -1, -1, int(_ANSWER_SECONDS * 1000)) + places
    request = struct.pack(">hhih", 0, 3, 7, 1) + b"x" + body  # Produce, version 3
    with closing(socket.create_connection((host, int(port)), _ANSWER_SECONDS)) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + struct.unpack_from(">i", answer)[0]:
            answer += connection.recv(4_096)
    code, offset = struct.unpack_from(">hq", answer, 4 + 4 + 4 + len(name) + 4 + 4)
    assert code == 0, f"the broker refused the batch: {code}"
    return int(offset)
