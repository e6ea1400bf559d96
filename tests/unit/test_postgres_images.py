"""Types by the catalogue alone, positions and filters: what needs no server."""

from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.connectors.postgres import incremental, load
from headrace.connectors.postgres.condition import is_fixed, parenthesised
from headrace.connectors.postgres.types import Kind, PgType, image
from headrace.errors import ConfigError

TYPES = {
    row.oid: row
    for row in (
        PgType(1231, "b", 0, -1, 1700, "A"),  # numeric[]
        PgType(600, "b", 0, -1, 701, "G"),  # point, which has elements but is no array
        PgType(90001, "d", 1700, ((9 << 16) | 2) + 4, 0, "N"),  # a domain over numeric(9,2)
        PgType(90002, "d", 90001, -1, 0, "N"),  # a domain over that domain
        PgType(90003, "b", 0, -1, 90002, "A"),  # an array of it
        PgType(90004, "d", 1231, -1, 0, "A"),  # a domain over numeric[]
        PgType(90005, "b", 0, -1, 90004, "A"),  # an array of it
    )
}


@pytest.mark.parametrize(
    ("oid", "modifier", "arrow", "kind"),
    [
        (90001, -1, pa.decimal128(9, 2), Kind.NUMERIC),
        (90002, -1, pa.decimal128(9, 2), Kind.NUMERIC),
        (90003, -1, pa.list_(pa.decimal128(9, 2)), Kind.LIST),
        (90004, -1, pa.list_(pa.string()), Kind.LIST),
        (90005, -1, pa.string(), Kind.TEXT),
        (600, -1, pa.string(), Kind.TEXT),
        (99999, -1, pa.string(), Kind.TEXT),
        (1700, ((1000 << 16) | 0) + 4, pa.string(), Kind.TEXT),
    ],
)
def test_domains_arrays_and_unknown_types_have_an_image(
    oid: int, modifier: int, arrow: pa.DataType, kind: Kind
) -> None:
    found = image(TYPES, oid, modifier)
    assert (found.arrow, found.kind) == (arrow, kind)


@pytest.mark.parametrize(
    "text",
    [
        "a = 1", "a = 'it''s;--/*('", "a = E'\\';'", 'x."a;)" > 1', "b = $$;)$$", "b = $q$'$$)$q$",
        "a[1] = (2)",
        "n$x = 1", "e = 'x'", "a ~ '^\\(' AND b @> '{}'", "größe > 1",
    ],
)  # fmt: skip
def test_a_condition_with_quotes_and_brackets_of_every_kind_passes(text: str) -> None:
    assert parenthesised(f" {text} ") == f"({text})"


@pytest.mark.parametrize(
    "text",
    [
        "a = 1;", "1)(1", "(1", "a--b", "a/*b*/", "'a", '"a', "E'\\'", "$$a", "$q$a$$", "$1", "a = '\0'",
        "[1)", " ",
        "$x$ OR $y$", "1]",
    ],
)  # fmt: skip
def test_text_that_could_leave_its_parentheses_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parenthesised(text)
    assert caught.value.code == "postgres.filter"


def test_only_conditions_without_functions_and_clocks_are_fixed() -> None:
    for text in ("a = 1", "a IN (1, 2) AND (b = 'x' OR NOT (c))", "at >= '2024-01-01'::timestamptz"):
        assert is_fixed(text), text
    for text in (
        "f(a)",
        '"f"(a)',
        "a < CURRENT_DATE",
        "a < 'now'",
        "a < LocalTimestamp",
        "a IN (SELECT 1)",
        "f (a)",
    ):
        assert not is_fixed(text), text


def test_positions_are_ordered_by_the_value_that_the_server_gave() -> None:
    def at(rank: str | None) -> dict[str, object]:
        return {"cursor": "c", "value": rank, "rank": rank, "from": rank, "seen": []}

    ranks = [None, "-1e300", "-62135596800000000.000000", "9", "10", "9223372036854775807"]
    orders = [incremental.order(at(rank)) for rank in ranks]
    assert orders == sorted(orders) and len(set(orders)) == len(orders)
    assert incremental.order({"xmin": 9, "seen": []}) < incremental.order({"xmin": 10, "seen": []})


@pytest.mark.parametrize(
    ("pages", "slices", "step"),
    [(0, 1, 0), (1024, 1, 0), (3600, 4, 1024), (8192, 8, 1024), (60_000, 8, 8192), (600_000, 37, 16384)],
)
def test_a_small_table_is_cut_into_a_few_ranges_and_a_large_one_into_large_ones(
    pages: int, slices: int, step: int
) -> None:
    leaf = load.Leaf(1, 1, "public", "t", "r", 1, 1, pages, True)
    found = list(load._ranges(leaf, 180_000))
    assert len(found) == slices and found[-1][1] is None
    assert [high for _, high in found[:-1]] == [low for low, _ in found[1:]]
    assert found[0][1] == (step or None)
