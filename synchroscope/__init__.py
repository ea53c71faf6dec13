"""What a producer or a model process imports: events, digests, views, replicas, reports."""

from synchroscope.digest import Digest, Hasher
from synchroscope.errors import ConflictError, InvalidEventError, SynchroscopeError
from synchroscope.event import ContextEvent, decode_event, encode_event
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import Batch, Log, NewRecord, Record, ReplicaStorage
from synchroscope.replica import Replica
from synchroscope.report import Explanation, Report, Request
from synchroscope.view import View

__all__ = [
    "Batch",
    "ConflictError",
    "ContextEvent",
    "Digest",
    "Explanation",
    "Hasher",
    "InvalidEventError",
    "Log",
    "MemoryStorage",
    "NewRecord",
    "Record",
    "Replica",
    "ReplicaStorage",
    "Report",
    "Request",
    "SynchroscopeError",
    "View",
    "decode_event",
    "encode_event",
]
__version__ = "0.1.0"
