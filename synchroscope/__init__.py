"""What a producer or a model process imports: events, digests, views, replicas, reports.

Each name is imported when it is first asked for, so that who needs one does not wait for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_MODULES = {
    "digest": ("Digest", "Hasher"),
    "errors": ("ConflictError", "InvalidEventError", "SynchroscopeError"),
    "event": ("ContextEvent", "decode_event", "encode_event"),
    "memory_storage": ("MemoryStorage",),
    "ports": ("Batch", "Log", "NewRecord", "Record", "ReplicaStorage"),
    "replica": ("Replica",),
    "report": ("Explanation", "Report", "Request"),
    "view": ("View",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
