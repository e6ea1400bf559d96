"""Rates, times and the bar of a run that goes on."""

from __future__ import annotations

from collections import deque

import pytest

from headrace.cli.progress import Track, bar, clock
from headrace.model.run import Counts, StreamProgress, StreamStatus


def progress(
    read: int, status: StreamStatus = StreamStatus.RUNNING, expected: int | None = 1000
) -> StreamProgress:
    return StreamProgress(stream="s", status=status, counts=Counts(read=read), expected=expected)


def test_the_rate_is_of_late_and_tells_the_time_left() -> None:
    track = Track(progress(0))
    for second, rows in ((0, 0), (10, 0), (11, 100), (12, 200)):
        track.take(progress(rows), float(second))
    assert track.samples == deque([(10.0, 0), (11.0, 100), (12.0, 200)])
    assert track.rate(12.0) == 100
    assert track.left(12.0) == 8


def test_when_it_has_ended_the_rate_is_of_the_whole() -> None:
    track = Track(progress(0, StreamStatus.PENDING))
    track.take(progress(0, StreamStatus.PENDING), 1.0)
    track.take(progress(0), 2.0)
    track.take(progress(500, StreamStatus.SUCCEEDED), 4.0)
    assert (track.seconds(99.0), track.rate(99.0), track.left(99.0)) == (2.0, 250.0, None)


def test_a_stream_that_is_tried_again_has_not_ended() -> None:
    track = Track(progress(0))
    track.take(progress(5, StreamStatus.FAILED), 1.0)
    track.take(progress(5), 2.0)
    assert track.ended is None


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (progress(500), " 50%"),
        (progress(5000), " 99%"),
        (progress(5, StreamStatus.SUCCEEDED), "100%"),
        (progress(5, expected=None), ""),
    ],
)
def test_the_bar_is_full_only_when_the_stream_is_done(given: StreamProgress, end: str) -> None:
    assert bar(given, 20).plain[-4:] == end
    assert len(bar(given, 6).plain) == (11 if end else 0)


@pytest.mark.parametrize(("seconds", "shown"), [(7, "0:07"), (750, "12:30"), (11_100, "3:05:00")])
def test_time_is_shown_as_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
