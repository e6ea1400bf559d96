"""Texts become the narrowest type that loses nothing."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connector.files import values
from headrace.errors import ConfigError

DECIMAL2 = pa.decimal128(38, 2)


@pytest.mark.parametrize(
    ("texts", "type"),
    [
        (["1", "0"], pa.int64()),
        (["+5", "-3", "9223372036854775807"], pa.int64()),
        (["007"], pa.string()),
        (["1", "007"], pa.string()),
        (["9223372036854775808"], pa.decimal128(38, 0)),
        (["1.10", "2"], DECIMAL2),
        (["1.5", "007.5"], pa.string()),
        (["1.5", "1e5"], pa.float64()),
        (["NaN", "1.0", "-Inf"], pa.float64()),
        (["1e999"], pa.string()),
        (["1" * 39], pa.string()),
        (["0." + "1" * 40], pa.float64()),
        (["true", "No", "T"], pa.bool_()),
        (["true", "1"], pa.string()),
        (["2024-02-29"], pa.date32()),
        (["2023-02-29"], pa.string()),
        (["0000-01-01"], pa.string()),
        (["2024-01-01", "2024-01-01 10:00"], values.TIMESTAMP),
        (["2024-01-01T10:00:00.123456Z", "2024-01-01 10:00+02:00"], values.TIMESTAMP_TZ),
        (["2024-01-01T10:00", "2024-01-01T10:00Z"], pa.string()),
        (["2024-01-01 10:00:00.1234567"], pa.string()),
        (["10:00", "23:59:59.5"], values.TIME),
        (["24:00"], pa.string()),
        (["03/04/2024"], pa.string()),
        (["1,000"], pa.string()),
        ([" 5"], pa.string()),
        (["0x1f"], pa.string()),
        (["", None], pa.string()),
        ([None], pa.null()),
        ([None, "", "4"], pa.int64()),
    ],
)
def test_a_type_holds_only_if_every_text_fits(texts: list[str | None], type: pa.DataType) -> None:
    assert values.infer(pa.array(texts, pa.string())) == type


def test_what_does_not_fit_is_marked_and_the_rest_converted() -> None:
    texts = pa.array(["1", "x", "007", None, "", "99999999999999999999", "+7"])
    array, bad = values.convert(texts, pa.int64())
    assert array.to_pylist() == [1, None, None, None, None, None, 7]
    assert bad.to_pylist() == [False, True, True, False, False, True, False]
    assert values.why_not("x", pa.int64())[0] == "TYPE_MISMATCH"
    assert values.why_not("99999999999999999999", pa.int64())[0] == "OUT_OF_RANGE"
    array, bad = values.convert(pa.array(["1.555", "1.5", "1e3"]), DECIMAL2)
    assert array.to_pylist() == [None, Decimal("1.50"), None]
    assert values.why_not("1.555", DECIMAL2) == ("OUT_OF_RANGE", "'1.555' is no decimal(38, 2)")


@pytest.mark.parametrize("places", [4, 38])
def test_a_number_with_too_many_digits_before_the_point_does_not_wrap_around(places: int) -> None:
    texts = ["922827758974900322988898351380351556.5", "-922827758974900322988898351380351556", "0.5", ".25"]
    array, bad = values.convert(pa.array(texts), pa.decimal128(38, places))
    assert array.to_pylist() == [None, None, Decimal("0.5"), Decimal("0.25")]
    assert bad.to_pylist() == [True, True, False, False]


@given(st.lists(st.one_of(st.none(), st.text("0123456789+-.eE naift:TZ", max_size=12)), min_size=1))
def test_no_digit_is_ever_lost(texts: list[str | None]) -> None:
    """Whatever numeric type is found, each value is exactly the number that the text spells."""
    array = pa.array(texts, pa.string())
    type = values.infer(array)
    converted, bad = values.convert(array, type if type != pa.null() else pa.string())
    assert bad is None
    if pa.types.is_integer(type) or pa.types.is_decimal(type):
        for text, value in zip(texts, converted.to_pylist(), strict=True):
            assert value is None if not text else Decimal(text) == value
            assert not text or not text.lstrip("+-").startswith("0") or text.lstrip("+-")[:2] in ("0", "0.")


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.int64(), DECIMAL2, DECIMAL2),
        (pa.decimal128(10, 2), pa.decimal128(12, 4), pa.decimal128(12, 4)),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.date32(), values.TIMESTAMP, values.TIMESTAMP),
        (values.TIMESTAMP, values.TIMESTAMP_TZ, pa.string()),
        (pa.bool_(), pa.int64(), pa.string()),
        (pa.null(), pa.int64(), pa.int64()),
        (pa.list_(pa.int64()), pa.string(), pa.string()),
    ],
)
def test_two_types_widen_to_one_that_holds_both(a: pa.DataType, b: pa.DataType, both: pa.DataType) -> None:
    assert values.widen(a, b) == both == values.widen(b, a)


def test_a_typed_column_is_cast_with_bad_values_marked() -> None:
    array, bad = values.cast(pa.array([1, 2**53 + 1, None]), pa.float64())
    assert array.to_pylist() == [1.0, None, None]
    assert bad.to_pylist() == [False, True, False]
    array, bad = values.cast(pa.array([2**64 - 1], pa.uint64()), pa.decimal128(20, 0))
    assert (array.to_pylist(), bad) == ([Decimal(2**64 - 1)], None)
    nested = pa.array([{"a": [Decimal("1.10"), None]}, None])
    assert values.cast(nested, pa.string())[0].to_pylist() == ['{"a": [1.10, null]}', None]


def test_types_are_named_by_words() -> None:
    assert values.named_type(" Decimal(10, 2) ") == pa.decimal128(10, 2)
    assert values.named_type("timestamp_tz") == values.TIMESTAMP_TZ
    for wrong in ("varchar", "decimal(39, 1)", "decimal(2, 3)", "decimal(x)"):
        with pytest.raises(ConfigError) as caught:
            values.named_type(wrong)
        assert caught.value.field == "types"
