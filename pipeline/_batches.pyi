from synchroscope.ports import Record

def unpack(
    data: bytes | bytearray | memoryview,
    start: int,
    count: int,
    base_offset: int,
    timestamp: int,
    is_appended: bool,
    make_record: type[Record],
    /,
) -> list[Record] | None: ...
