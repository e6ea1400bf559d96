"""A TCP proxy that stands between a client and a real server and does to the network what a test asks."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import TracebackType

_RST = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close sends RST


class Fault(Enum):
    """What happens at a message from the client that a test waits for (`TcpProxy.at`)."""

    CUT = "cut"  # it never arrives; both ends are closed
    RESET = "reset"  # the same, and the client sees a connection reset
    DROP_REPLY = "drop_reply"  # it arrives and is answered; the client sees a close in place of the answer


class TcpProxy:
    """Started by `with`; carries connections from `port` on 127.0.0.1 to `host`:`target_port`.

    `latency` (seconds before bytes go on, either way), `bandwidth` (bytes a second, either way) and
    `refusing` (new connections are closed at once) may be changed at any time. `asked` counts the messages
    that came from clients, `answered` the bytes that servers sent.
    """

    def __init__(self, host: str, target_port: int):
        self.to = (host, target_port)
        self.latency = 0.0
        self.bandwidth: float | None = None
        self.refusing = False
        self.asked = self.answered = 0
        self.fired = threading.Event()
        self._rule: tuple[Callable[[bytes], bool], Fault] | None = None
        self._open = threading.Event()  # cleared while half-open
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> TcpProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        self.restore()
        self.cut()

    def at(self, message: bytes | Callable[[bytes], bool], fault: Fault) -> None:
        """Do `fault`, once, when the client sends a chunk that holds `message`; then `fired` is set."""
        self.fired.clear()
        matches = message if callable(message) else lambda chunk: message in chunk
        self._rule = (matches, fault)

    def cut(self) -> None:
        """Close all connections."""
        for pair in self._take_all():
            _close(*pair)

    def reset(self) -> None:
        """Close all connections so that the client sees a reset."""
        for pair in self._take_all():
            _reset(*pair)

    def silence(self) -> None:
        """From now on nothing gets through either way, and nobody is told."""
        self._open.clear()

    def restore(self) -> None:
        """End what `silence` began; bytes that waited go on."""
        self._open.set()

    def _take_all(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            pairs, self._pairs = self._pairs, []
            return pairs

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self.to)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            swallow = threading.Event()
            for carry in (self._carry_requests, self._carry_replies):
                threading.Thread(
                    target=carry, args=(client, server, swallow), name="proxy", daemon=True
                ).start()

    def _carry_requests(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(1 << 16):
                with self._lock:
                    self.asked += 1
                self._delay(chunk)
                fault = self._fault(chunk)
                if fault is Fault.CUT:
                    break
                if fault is Fault.RESET:
                    _reset(client, server)
                    return
                if fault is Fault.DROP_REPLY:
                    swallow.set()
                server.sendall(chunk)
        _close(client, server)

    def _carry_replies(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(1 << 16):
                with self._lock:
                    self.answered += len(chunk)
                if swallow.is_set():
                    break
                self._delay(chunk)
                client.sendall(chunk)
        _close(client, server)

    def _fault(self, chunk: bytes) -> Fault | None:
        with self._lock:
            if self._rule is None or not self._rule[0](chunk):
                return None
            fault, self._rule = self._rule[1], None
        self.fired.set()
        return fault

    def _delay(self, chunk: bytes) -> None:
        self._open.wait()
        time.sleep(self.latency + (len(chunk) / self.bandwidth if self.bandwidth else 0))


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in recv, which `close` does not
        end.close()


def _reset(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        client.shutdown(socket.SHUT_RD)  # wakes a thread that waits in recv, without a word to the client
    client.close()
    _close(server)
