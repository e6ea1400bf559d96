"""Which files were read: a set of fingerprints, cut off below once it grows large."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.connector import Position
from headrace.connector.files import Object

REMEMBERED = 5000
LOOK_BACK = timedelta(days=1)
_WIDTH = 8


def fingerprint(file: Object) -> bytes:
    """Other for another name, size, time or content."""
    parts = "\0".join((file.key, str(file.size), file.modified.isoformat(), file.etag))
    return hashlib.blake2b(parts.encode(errors="surrogatepass"), digest_size=_WIDTH).digest()


@dataclass(frozen=True, slots=True)
class Seen:
    """The files that were read, each as it was then.

    Up to `REMEMBERED` files are known one by one, whatever their times. With more of them those last
    changed at or before `floor` are forgotten, and taken for read: it stays behind the newest file by
    the look-back, since a store may show a file later than its time says (a long upload, a clock that
    is off, a file moved with its old time).
    """

    sequence: int = 0
    prints: frozenset[bytes] = frozenset()
    floor: datetime | None = None

    @classmethod
    def of(cls, position: Position) -> Seen:
        if not position:
            return cls()
        data = base64.b64decode(position["seen"])
        prints = frozenset(data[at : at + _WIDTH] for at in range(0, len(data), _WIDTH))
        floor = datetime.fromisoformat(position["floor"]) if position["floor"] else None
        return cls(position["sequence"], prints, floor)

    def new(self, files: Iterable[Object]) -> list[Object]:
        """The files that were not read as they are now."""
        return [
            file
            for file in files
            if (self.floor is None or file.modified > self.floor) and fingerprint(file) not in self.prints
        ]

    def after(
        self, read: Sequence[Object], listed: Sequence[Object], look_back: timedelta | None
    ) -> Position:
        """The position once `read` were read too; `listed` are all files there are."""
        prints = self.prints | {fingerprint(file) for file in read}
        floor = self.floor
        if len(prints) > REMEMBERED:
            waiting = [f.modified for f in self.new(listed) if fingerprint(f) not in prints]
            known = sorted(f.modified for f in listed if fingerprint(f) in prints)
            if len(known) > REMEMBERED:
                bound = min(known[-REMEMBERED], known[-1] - (look_back or LOOK_BACK), *waiting)
                floor = max(filter(None, (floor, bound - timedelta(microseconds=1))))
            prints = prints.intersection(
                fingerprint(f) for f in listed if floor is None or f.modified > floor
            )
        newest = max((f.modified for f in read), default=None)
        position: dict[str, Any] = {
            "sequence": self.sequence + 1,
            "seen": base64.b64encode(b"".join(sorted(prints))).decode(),
            "floor": floor.isoformat() if floor else None,
            "files": len(prints),
            "newest": newest.astimezone(UTC).isoformat() if newest else None,
        }
        return position
