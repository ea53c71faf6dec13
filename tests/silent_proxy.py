"""A way to a server that can fall silent: connections stand, and nothing comes through."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 65_536
TICK_SECONDS = 0.02


class SilentProxy:
    """Passes bytes on to a server; `uri` is the way to it.

    Parameters
    ----------
    uri: The server's; anything after host and port is kept.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._is_silent = threading.Event()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        user = f"{parts.username}@" if parts.username else ""
        host = f"{user}127.0.0.1:{self._listening.getsockname()[1]}"
        self.uri = urlunsplit(parts._replace(netloc=host))

    def fall_silent(self) -> None:
        """Take what is sent, and pass nothing on."""
        self._is_silent.set()

    def speak(self) -> None:
        """Pass everything on again, in new connections."""
        self._is_silent.clear()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            if not select.select([self._listening], [], [], TICK_SECONDS)[0]:
                continue
            with suppress(OSError):
                near = self._listening.accept()[0]
                thread = threading.Thread(target=self._pass_on, args=(near,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(self._server) as far:
            ends = {near: far, far: near}
            while not self._is_over.is_set():
                for end in select.select(list(ends), [], [], TICK_SECONDS)[0]:
                    data = end.recv(CHUNK_BYTES)
                    if not data:
                        return
                    if not self._is_silent.is_set():
                        ends[end].sendall(data)

    def __enter__(self) -> SilentProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._listening.close()
        for thread in self._threads:
            thread.join()
