"""Daily exchange rates of a central bank: a whole connector for an API, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta

import pyarrow as pa

import headrace.connector as hr

WINDOW = timedelta(days=90)
CURRENCIES = hr.Stream(
    name="currencies",
    schema=pa.schema([("code", pa.string()), ("name", pa.string())]),
    primary_key=("code",),
)
RATES = hr.Stream(
    name="rates",
    schema=pa.schema([("date", pa.date32()), ("currency", pa.string()), ("rate", pa.decimal128(18, 6))]),
    primary_key=("date", "currency"),
    cursors=("date",),
)


class RatesConfig(hr.Config):
    base_url: str = hr.setting("Address of the API.", examples=["https://rates.example.com"])
    base: str = hr.setting("Currency the rates are quoted against.", default="EUR", pattern="^[A-Z]{3}$")
    start: date = hr.setting("First day to read.", default=date(1999, 1, 4))


class RatesSource(hr.Source[RatesConfig]):
    def __init__(self, config: RatesConfig):
        super().__init__(config)
        self.http = hr.Http(config.base_url, decimals=True)

    def check(self) -> None:
        self.http.get("/latest", base=self.config.base)

    def discover(self, selection: hr.Selection = hr.EVERYTHING) -> Iterable[hr.Stream]:
        return [stream for stream in (CURRENCIES, RATES) if stream.id in selection]

    def read(self, slice: hr.Slice, since: hr.Position) -> Iterator[hr.Event]:
        if slice.read.stream.id == CURRENCIES.id:
            names = self.http.get("/currencies")
            yield hr.Batch.of(CURRENCIES, ({"code": code, "name": name} for code, name in names.items()))
            return
        last = since.get("date")
        first = date.fromisoformat(last) + timedelta(days=1) if last else self.config.start
        while first <= date.today():
            until = min(first + WINDOW, date.today())
            days = self.http.get(f"/{first}..{until}", base=self.config.base)["rates"]
            for day, rates in sorted(days.items()):
                on = date.fromisoformat(day)
                yield hr.Batch.of(RATES, ({"date": on, "currency": c, "rate": r} for c, r in rates.items()))
            if days:  # today's rates may not be out yet: resume after the last day seen
                yield hr.Checkpoint({"date": max(days)})
            first = until + timedelta(days=1)

    def close(self) -> None:
        self.http.close()


SPEC = hr.ConnectorSpec(
    name="rates",
    title="Exchange rates",
    version="1",
    config=RatesConfig,
    source=f"{__name__}:RatesSource",
    capabilities=frozenset({hr.Capability.FULL, hr.Capability.INCREMENTAL}),
    category="api",
)
