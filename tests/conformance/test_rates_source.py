"""An API source that resumes is one file of under 80 lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.connector import (
    Batch,
    Checkpoint,
    Event,
    Position,
    ReadMode,
    Slice,
    Stream,
    StreamRead,
    WriteMode,
)
from headrace.errors import ConfigError, NotFoundError
from headrace.model.pipeline import StreamChoice
from headrace.model.run import StreamStatus
from servers.http import Answer, ApiServer, Request
from tests.bench import Bench
from tests.conformance import rates_source
from tests.conformance.rates_source import CURRENCIES, RATES, SPEC, RatesConfig, RatesSource

TODAY = date(2026, 3, 2)
START = TODAY - timedelta(days=200)


@pytest.fixture(autouse=True)
def _stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs over midnight."""

    class Fixed(date):
        @classmethod
        def today(cls) -> Fixed:
            return cls(TODAY.year, TODAY.month, TODAY.day)

    monkeypatch.setattr(rates_source, "date", Fixed)


def rate_on(day: date) -> str:
    """A rate that a float could not hold."""
    return f"{day.toordinal()}.000001"


class Bank:
    """A central bank that is closed on Sundays; fails `failures` requests for rates after `good` ones."""

    def __init__(self) -> None:
        self.good, self.failures = 1_000, 0

    def __call__(self, request: Request) -> Answer:
        if request.path == "/currencies":
            return Answer({"USD": "US Dollar", "JPY": "Yen"})
        if request.path == "/latest":
            return Answer({"base": request.query["base"]})
        if ".." not in request.path:
            return Answer(status=404)
        if self.good == 0 and self.failures:
            self.failures -= 1
            return Answer(status=400)
        self.good -= 1
        first, last = (date.fromisoformat(day) for day in request.path.strip("/").split(".."))
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        rates = ",".join(f'"{d}": {{"USD": {rate_on(d)}}}' for d in days if d.isoweekday() != 7)
        return Answer(f'{{"rates": {{{rates}}}}}'.encode())


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def source(bank: Bank) -> Iterator[RatesSource]:
    with ApiServer(bank) as server:
        source = RatesSource(RatesConfig.parse({"base_url": server.url, "start": START.isoformat()}))
        yield source
        source.close()


def slice_of(source: RatesSource, stream: Stream) -> Slice:
    (found,) = source.slices([StreamRead(stream=stream)], {})
    return found


def rows(events: list[Event]) -> list[dict[str, Any]]:
    return [row for event in events if isinstance(event, Batch) for row in event.rows.to_pylist()]


def expected(after: date) -> list[dict[str, Any]]:
    days = [after + timedelta(days=n) for n in range((TODAY - after).days + 1)]
    return [{"date": d, "currency": "USD", "rate": Decimal(rate_on(d))} for d in days if d.isoweekday() != 7]


def test_a_source_for_an_api_is_under_80_lines() -> None:
    assert len(Path(rates_source.__file__).read_text().splitlines()) < 80


def test_it_checks_discovers_and_reads_every_row(source: RatesSource) -> None:
    source.check()
    assert list(source.discover()) == [CURRENCIES, RATES]
    assert rows(list(source.read(slice_of(source, CURRENCIES), {}))) == [
        {"code": "USD", "name": "US Dollar"},
        {"code": "JPY", "name": "Yen"},
    ]
    assert rows(list(source.read(slice_of(source, RATES), {}))) == expected(START)


def test_cut_in_the_middle_it_resumes_after_its_last_checkpoint(source: RatesSource, bank: Bank) -> None:
    bank.good, bank.failures = 2, 1
    kept: list[Event] = []
    pending: list[Event] = []
    position: Position = {}
    with pytest.raises(ConfigError, match="status 400"):
        for event in source.read(slice_of(source, RATES), {}):
            pending.append(event)
            if isinstance(event, Checkpoint):
                kept, pending, position = kept + pending, [], event.position
    assert 0 < len(rows(kept)) < len(expected(START))
    bank.good = 1_000
    rest = list(source.read(slice_of(source, RATES), position))
    assert rows(kept) + rows(rest) == expected(START)


def test_a_run_that_is_cut_goes_on_by_itself_and_lands_every_row_once(
    source: RatesSource, bank: Bank, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, source_spec=SPEC)
    pipeline = bench.pipeline(
        [
            StreamChoice(stream="rates", read=ReadMode.INCREMENTAL, write=WriteMode.APPEND),
            StreamChoice(stream="currencies"),
        ]
    )
    bank.good, bank.failures = 2, 1
    ends = bench.run(pipeline, RatesSource(source.config))
    assert ends["currencies"].status is StreamStatus.SUCCEEDED
    assert ends["rates"].error and ends["rates"].error.code.startswith("http.")
    assert 0 < len(bench.rows("rates")) < len(expected(START))
    bank.good = 1_000
    ends = bench.run(pipeline, RatesSource(source.config))
    assert ends["rates"].status is StreamStatus.SUCCEEDED
    assert bench.rows("rates") == expected(START)
    assert {row["code"] for row in bench.rows("currencies")} == {"USD", "JPY"}
    bench.store.close()


def test_at_the_end_there_is_nothing_more_to_read(source: RatesSource) -> None:
    assert rows(list(source.read(slice_of(source, RATES), {"date": TODAY.isoformat()}))) == []


def test_an_api_that_is_not_there_is_told_as_our_error(source: RatesSource) -> None:
    with ApiServer(lambda request: Answer(status=404)) as server:
        astray = RatesSource(RatesConfig.parse({"base_url": server.url}))
        with pytest.raises(NotFoundError):
            astray.check()
        astray.close()


def test_it_describes_itself_as_a_form() -> None:
    form = SPEC.config.model_json_schema()
    assert form["required"] == ["base_url"]
    assert form["properties"]["base"] == {
        "default": "EUR",
        "description": "Currency the rates are quoted against.",
        "pattern": "^[A-Z]{3}$",
        "title": "Base",
        "type": "string",
    }
    assert form["properties"]["start"]["format"] == "date"
