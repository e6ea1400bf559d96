"""A TCP proxy on a loopback port that loses the reply to a request of the test's choice."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class CutProxy:
    """Started by `with`; one thread a direction of each connection. `dropped` counts the lost replies."""

    def __init__(self, to_port: int):
        self._to_port = to_port
        self._marker: bytes | None = None
        self._then_refuse = False
        self._refuse = False
        self._open: set[socket.socket] = set()
        self.dropped = 0

    def __enter__(self) -> CutProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            _end(end)

    def drop_reply_to(self, marker: bytes, *, then_refuse: bool = False) -> None:
        """Let the next PUT whose bytes hold `marker` arrive, but not its reply; then perhaps nothing."""
        self._marker, self._then_refuse = marker, then_refuse

    def restore(self) -> None:
        self._refuse = False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refuse:
                    _end(near)
                    continue
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._open |= {near, far}
                cut = threading.Event()
                threading.Thread(target=self._forward, args=(near, far, cut), daemon=True).start()
                threading.Thread(target=self._reply, args=(far, near, cut), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                if self._marker and data.startswith(b"PUT") and self._marker in data.partition(b"\r\n")[0]:
                    self._marker = None
                    cut.set()
                far.sendall(data)
        _end(far)

    def _reply(self, far: socket.socket, near: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                if cut.is_set():
                    self.dropped += 1
                    self._refuse = self._then_refuse
                    break
                near.sendall(data)
        _end(near)
        _end(far)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
