"""The grammar of csv: where one record and its fields end, for text that may be broken."""

from __future__ import annotations

import re

from headrace.connector.files.part import MAX_COLUMNS


class Grammar:
    """Records and fields of RFC 4180, as pyarrow cuts them; text after a closing quote is let pass."""

    def __init__(self, delimiter: str, quote: str):
        d, q = re.escape(delimiter.encode()), re.escape(quote.encode())
        quoted = rb"%(q)s[^%(q)s]*+(?:%(q)s%(q)s[^%(q)s]*+)*+"
        strict = rb"(?:" + quoted + rb"%(q)s(?=[%(d)s\r\n]|\Z)|(?!%(q)s)[^%(d)s\r\n]*+)"
        loose = rb"(?:%(q)s(?:[^%(q)s\r\n]|%(q)s%(q)s)*+%(q)s[^%(d)s\r\n]*+|(?!%(q)s)[^%(d)s\r\n]*+)"
        end = rb"(?:\r\n|\n|\r|\Z)"

        def compiled(pattern: bytes) -> re.Pattern[bytes]:
            return re.compile(pattern.replace(b"%(q)s", q).replace(b"%(d)s", d))

        self._strict = compiled(strict + rb"(?:%(d)s" + strict + rb")*+" + end)
        self._loose = compiled(loose + rb"(?:%(d)s" + loose + rb")*+" + end)
        self._open = compiled(rb"(?:" + strict + rb"%(d)s)*+" + quoted + rb"\Z")
        self._line = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)")
        self._field = compiled(rb"(" + loose.replace(rb"\r\n", b"") + rb")(?:%(d)s|\Z)")
        self._quote = quote.encode()

    def record(self, data: bytes, at: int, *, end: bool, closed: bool = False) -> tuple[int, str | None]:
        """Where the record that starts at `at` ends, 0 if that is yet to come; and what is wrong with it.

        `end` says that no more data will come, `closed` that no more will come for an open quote.
        """
        found = self._strict.match(data, at)
        if found is None and not (end or closed) and self._open.match(data, at):
            return 0, None
        code = None
        if found is None:
            found = self._loose.match(data, at)
        if found is None:
            found, code = self._line.match(data, at), "UNTERMINATED_QUOTE"
        assert found is not None
        if not end and found.end() == len(data) and data[-1:] != b"\n":
            return 0, None
        return found.end(), code

    def fields(self, record: bytes) -> list[str]:
        """The texts of a whole record, or enough of them to see that they are too many."""
        record = record.rstrip(b"\r\n")
        cells: list[bytes] = []
        at = 0
        while len(cells) <= MAX_COLUMNS:
            found = self._field.match(record, at)
            if found is None:
                cells.append(record[at:])
                break
            cells.append(found[1])
            if found.end() == found.end(1):
                break
            at = found.end()
        return [self._unquoted(cell).decode(errors="replace") for cell in cells]

    def _unquoted(self, cell: bytes) -> bytes:
        if not cell.startswith(self._quote):
            return cell
        inner, _, after = cell[1:].rpartition(self._quote)
        return inner.replace(self._quote * 2, self._quote) + after
