from synchroscope.ports import Headers

def unpack(
    data: bytes | bytearray | memoryview,
    start: int,
    count: int,
    base_offset: int,
    timestamp: int,
    is_appended: bool,
    /,
) -> tuple[bytes, list[bytes], list[bytes], list[Headers], bytes] | None: ...
