"""A run as it goes: redrawn on a terminal, lines elsewhere, events for programs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.cli.screen import Column, Screen, error_json, many, size
from headrace.model.run import Counts, Run, StreamProgress, StreamStatus

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

STYLES: Mapping[str, str] = {
    "succeeded": "green",
    "running": "cyan",
    "failed": "bold red",
    "paused": "yellow",
    "cancelled": "yellow",
    "queued": "dim",
    "pending": "dim",
}
_EVERY = {"plain": 5.0, "ndjson": 1.0}  # seconds between two words on one stream
_WINDOW = 5.0  # seconds over which the rate is taken
_BAR = 20  # characters, of a terminal of at least
_WIDE = 100


@dataclass
class Track:
    """One stream, with the times that its counts do not tell."""

    progress: StreamProgress
    began: float | None = None
    ended: float | None = None
    told: float = 0.0
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, progress: StreamProgress, now: float) -> None:
        self.progress = progress
        if self.began is None and progress.status is not StreamStatus.PENDING:
            self.began = now
        if progress.status in (StreamStatus.PENDING, StreamStatus.RUNNING):
            self.ended = None
        elif self.ended is None:
            self.ended = now
        self.samples.append((now, progress.counts.read))
        while len(self.samples) > 2 and now - self.samples[0][0] > _WINDOW:
            self.samples.popleft()

    def seconds(self, now: float) -> float:
        return 0.0 if self.began is None else (self.ended or now) - self.began

    def rate(self, now: float) -> float:
        """Rows a second: of late while it runs, on the whole when it has ended."""
        if self.ended is not None or len(self.samples) < 2:
            seconds = self.seconds(now)
            return self.progress.counts.read / seconds if seconds else 0.0
        (then, before), rows = self.samples[0], self.samples[-1][1]
        return max(0, rows - before) / (now - then) if now > then else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to the end, by the source's own estimate of its rows."""
        rate, expected = self.rate(now), self.progress.expected
        if not expected or not rate or self.progress.status is not StreamStatus.RUNNING:
            return None
        return max(0, expected - self.progress.counts.read) / rate


class Follower:
    """Fits `Watcher`: takes what the engine's threads tell; `show` says it, from the main thread."""

    def __init__(self, screen: Screen, pipeline: str):
        self.screen = screen
        self.pipeline = pipeline
        self.run: Run | None = None
        self.tracks: dict[str, Track] = {}
        self._lock = threading.Lock()
        self._words: deque[tuple[str, str, str | None]] = deque()
        self._ended: set[str] = set()
        self._live = self._drawn() if screen.live else None

    def _drawn(self) -> Live:
        from rich.live import Live

        return Live(console=self.screen.err, auto_refresh=False, transient=True)

    def started(self, run: Run) -> None:
        self.run = run

    def progress(self, progress: StreamProgress) -> None:
        with self._lock:
            now = time.monotonic()
            self.tracks.setdefault(progress.stream, Track(progress)).take(progress, now)

    def log(self, level: str, message: str, stream: str | None) -> None:
        with self._lock:
            self._words.append((level, message, stream))

    def __enter__(self) -> Follower:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.show()
        if self._live:
            self._live.update("", refresh=True)
            self._live.stop()

    def show(self) -> None:
        """Say what is new. Called a few times a second, and once after the end."""
        now = time.monotonic()
        with self._lock:
            words, tracks = list(self._words), list(self.tracks.values())
            self._words.clear()
        for level, message, stream in words:
            self._say(level, message, stream)
        if self._live:
            self._live.update(self._table(tracks, now), refresh=True)
            return
        every = _EVERY["ndjson" if self.screen.format == "ndjson" else "plain"]
        for track in tracks:
            ended = track.ended is not None
            changed = ended != (track.progress.stream in self._ended)
            due = track.began is not None and not ended and now - (track.told or track.began) >= every
            if changed or due:
                track.told = now
                (self._ended.add if ended else self._ended.discard)(track.progress.stream)
                self._tell(track, now)

    def _say(self, level: str, message: str, stream: str | None) -> None:
        if self.screen.format == "ndjson":
            line = {"run": self.run and self.run.id, "level": level, "stream": stream, "message": message}
            self.screen.event("log", line)
        elif level == "warning":
            self.screen.warn(f"{stream}: {message}" if stream else message)
        elif level != "error":  # errors come with their remedy at the end
            self.screen.say(f"{stream}: {message}" if stream else message, style="dim", verbose=True)

    def _tell(self, track: Track, now: float) -> None:
        progress = track.progress
        if self.screen.format == "ndjson":
            self.screen.event("progress", {"pipeline": self.pipeline, **stream_json(progress, track, now)})
            return
        counts = progress.counts
        known = f" of about {progress.expected:,}" if progress.expected and track.ended is None else ""
        words = [f"{counts.read:,}{known} rows" if known else many(counts.read, "row")]
        if counts.read:
            words += [f"{track.rate(now):,.0f} rows/s", size(counts.bytes)]
        if track.ended is not None:
            why = f": {progress.error.code}" if progress.error else ""
            words.insert(0, f"{progress.status}{why}")
            words.append(f"{track.seconds(now):.1f} s")
        elif (left := track.left(now)) is not None:
            words.append(f"{clock(left)} left")
        self.screen.say(f"{progress.stream}: {', '.join(words)}")

    def _table(self, tracks: list[Track], now: float) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(tracks), header_style="dim"
        )
        table.add_column("stream", overflow="fold")
        for title in ("", "rows", "rows/s", "bytes", "left", ""):
            table.add_column(title, justify="right" if title else "left", no_wrap=True)
        wide = self.screen.err.width >= _WIDE
        order = {"running": 0, "failed": 1, "paused": 1, "pending": 2, "cancelled": 3, "succeeded": 3}
        shown = sorted(tracks, key=lambda t: order[t.progress.status.value])
        room = max(3, self.screen.err.height - 4)
        for track in shown[:room]:
            progress = track.progress
            left = track.left(now)
            table.add_row(
                Text(self.screen.line(progress.stream)),
                Text(progress.status.value, style=STYLES[progress.status.value]),
                f"{progress.counts.read:,}",
                f"{track.rate(now):,.0f}" if track.began else "",
                size(progress.counts.bytes),
                clock(left) if left is not None else "",
                bar(progress, _BAR if wide else _BAR // 3),
            )
        if len(shown) > room:
            table.add_row(Text(f"… and {len(shown) - room} more", style="dim"))
        return table


def bar(progress: StreamProgress, width: int) -> Text:
    """How far a stream is, where its source knows how many rows it has."""
    from rich.text import Text

    if progress.status is StreamStatus.SUCCEEDED:
        share = 1.0
    elif progress.expected:
        share = min(0.99, progress.counts.read / progress.expected)
    else:
        return Text("")
    full = int(share * width)
    return Text.assemble(("━" * full, "green"), ("━" * (width - full), "bright_black"), f" {share:4.0%}")


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def stream_json(progress: StreamProgress, track: Track | None, now: float) -> dict[str, Any]:
    """The one shape of a stream of a run in every JSON document."""
    return {
        "stream": progress.stream,
        "status": progress.status.value,
        **progress.counts.to_json(),
        "expected": progress.expected,
        "seconds": round(track.seconds(now), 3) if track else None,
        "rows_per_second": round(track.rate(now)) if track else None,
        "error": error_json(progress.error) if progress.error else None,
    }


def run_json(run: Run, tracks: Mapping[str, Track] | None = None) -> dict[str, Any]:
    """The one shape of a run in every JSON document."""
    now = time.monotonic()
    seconds = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
    total = sum((s.counts for s in run.streams), Counts())
    return {
        "run": run.id,
        "pipeline": run.pipeline,
        "status": run.status.value,
        "cancelling": run.cancelling,
        "trigger": run.trigger.value,
        "attempt": run.attempt,
        "queued_at": run.queued_at.isoformat(),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "seconds": seconds,
        "read": total.read,
        "written": total.written,
        "rejected": total.rejected,
        "error": error_json(run.error) if run.error else None,
        "streams": [stream_json(s, (tracks or {}).get(s.stream), now) for s in run.streams],
    }


def _style(row: Mapping[str, Any]) -> str:
    return STYLES[row["status"]]


SUMMARY = (
    Column("stream", "stream"),
    Column("status", "status", style=_style, whole=True),
    Column("read", "read", right=True),
    Column("written", "written", right=True),
    Column("rejected", "rejected", right=True, optional=True),
    Column("skipped", lambda row: sum(row["skipped"].values()), right=True, optional=True),
    Column(
        "seconds",
        lambda row: None if row["seconds"] is None else f"{row['seconds']:.1f}",
        right=True,
        spare=2,
    ),
    Column("rows/s", "rows_per_second", right=True, spare=1),
    Column("error", lambda row: (row["error"] or {}).get("code") or "", style="red", optional=True, spare=3),
)
"""The columns of the table at the end of a run."""
