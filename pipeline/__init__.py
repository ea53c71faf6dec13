"""The sync pipeline: command side, event stores, logs, relay, projector, replica storages."""
