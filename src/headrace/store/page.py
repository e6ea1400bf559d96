"""One page of a list, and how many there are in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    total: int


def read_page(
    transaction: Connection, query: Select[Any], offset: int, limit: int
) -> tuple[Sequence[Row[Any]], int]:
    """The rows from `offset` on, and the number of all that the query finds."""
    counted = select(func.count()).select_from(query.order_by(None).subquery())
    total: int = transaction.execute(counted).scalar_one()
    if offset >= total:  # it may be larger than any number that a database knows
        return [], total
    return transaction.execute(query.offset(offset).limit(limit)).all(), total


def contains(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Is the text in it, whatever the case; `%` and `_` are ordinary characters."""
    return func.lower(column).contains(text.lower(), autoescape=True)
