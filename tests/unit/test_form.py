"""Forms of both generations are read alike, and what is filled in is checked by them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control.builtin import built_in
from headrace.control.form import Form, read_form
from headrace.errors import ConfigError
from tests.archives import FORM

FIRST: dict[str, Any] = {
    "schema": {
        "type": "object",
        "properties": {
            "connector_config": {
                "type": "object",
                "encrypt": True,
                "properties": {"kind": {"type": "string", "enum": ["A", "B"]}},
                "required": ["kind"],
                "dependencies": {
                    "kind": {
                        "oneOf": [
                            {
                                "properties": {
                                    "kind": {"enum": ["A"]},
                                    "place": {
                                        "type": "object",
                                        "properties": {
                                            "host": {"type": "string", "pattern": "/^[a-z.]+$/"},
                                            "port": {"type": "number", "minimum": 1, "maximum": 65535},
                                        },
                                        "required": ["host"],
                                    },
                                }
                            },
                            {"properties": {"kind": {"const": "B"}, "key": {"type": "string"}}},
                        ]
                    }
                },
            },
            "operations_config": {
                "type": "object",
                "properties": {
                    "batch_size": {"type": "number", "default": 100},
                    "names": {"type": "array"},
                    "on": {"type": "boolean", "fieldDescription": [{"description": "Switched on"}]},
                },
            },
        },
    },
    "properties": {"operations_config": {"batch_size": {"ui:readonly": True}}},
}


def field(form: Form, name: str) -> Any:
    return next(each for each in form.fields if each.name == name)


def refused(form: Form, connector: Any, operations: Any = None) -> tuple[str, str | None]:
    with pytest.raises(ConfigError) as raised:
        form.check({"connector_config": connector, "operations_config": operations or {}})
    return raised.value.code, raised.value.field


def test_a_form_of_the_first_generation_is_checked_member_by_member() -> None:
    form = read_form(FIRST)
    form.check({"connector_config": {"kind": "A", "place": {"host": "a.b", "port": 1}}})
    form.check({"connector_config": {"kind": "B", "key": "x"}, "operations_config": {"batch_size": 100}})
    assert refused(form, {}) == ("form.missing", "connector_config.kind")
    assert refused(form, {"kind": "C"})[0] == "form.invalid"
    assert refused(form, {"kind": "A"}) == ("form.missing", "connector_config.place.host")
    assert refused(form, {"kind": "A", "key": "x"}) == ("form.unknown", "connector_config.key")
    place = {"host": "a", "port": 0}
    assert refused(form, {"kind": "A", "place": place}) == ("form.invalid", "connector_config.place.port")
    assert refused(form, {"kind": "A", "place": {"host": "A B"}}) == (
        "form.invalid", "connector_config.place.host",
    )  # fmt: skip
    for wrong in ({"batch_size": 7}, {"names": "x"}, {"on": 1}, {"batch_size": True}):
        assert refused(form, {"kind": "B"}, wrong)[0] == "form.invalid"
    assert refused(form, {"kind": "B"}, {"surprise": {"a": 1}}) == (
        "form.unknown", "operations_config.surprise.a",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="elsewhere"):
        form.check({"connector_config": {"kind": "B"}, "elsewhere": 1})


def test_what_lies_in_an_encrypted_section_is_secret() -> None:
    form = read_form(FIRST)
    assert {path[0] for path in form.secrets()} == {"connector_config"}
    assert field(form, "operations_config.on").help == "Switched on"
    assert field(form, "operations_config.batch_size").fixed


def test_a_form_of_the_second_generation_is_flat_and_in_order() -> None:
    form = read_form(FORM)
    assert [each.name for each in form.fields] == ["connector_config.api_key", "connector_config.base_url"]
    assert form.secrets() == {("connector_config", "api_key")}
    assert field(form, "connector_config.base_url").help == "Where the API is"
    assert refused(form, {"api_key": "x"}) == ("form.missing", "connector_config.base_url")
    hidden = {"type": "object", "properties": {"a": {"type": "string", "format": "hidden"}}}
    assert read_form(hidden).fields[0].hidden


def test_a_pattern_that_can_not_be_used_is_passed_over_with_a_warning() -> None:
    form = read_form({"properties": {"a": {"type": "string", "pattern": "(?<=x)y"}, "b": {"pattern": "("}}})
    assert len(form.warnings) == 2 and "connector_config.a" in form.warnings[0]
    form.check({"connector_config": {"a": "anything", "b": "("}})


def test_a_pattern_made_to_be_slow_is_not() -> None:
    form = read_form({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    assert refused(form, {"a": "a" * 50_000 + "!"}) == ("form.invalid", "connector_config.a")


def test_every_built_in_connector_has_a_form_without_a_warning_or_says_that_it_can_not_run() -> None:
    for entry in built_in():
        form = read_form(entry.ui_spec)
        assert form.warnings == (), entry.id
        if entry.origin.runnable:
            assert any(each.path[0] == "connector_config" for each in form.fields), entry.id
        else:
            assert entry.origin.reason and entry.origin.reason in (entry.description or "")
        operations = {"pollingInterval": "Periodic", "schedule": "Daily"}
        with pytest.raises(ConfigError, match=r"surprise"):
            form.check({"connector_config": {"surprise": 1}, "operations_config": operations})


def test_the_form_of_a_database_takes_what_its_clients_send() -> None:
    (postgres,) = [entry for entry in built_in() if entry.id == "postgres-connector-1.0.0"]
    place = {"host": "db", "port": 5432, "name": "shop", "username": "me", "password": "p"}
    connector = {"databaseType": "PostgreSQL", "connection_info": place, "schemaInfo": {"table": "orders"}}
    form = read_form(postgres.ui_spec)
    form.check({"connector_config": connector, "operations_config": {"pollingInterval": "Once"}})
    assert refused(form, connector, {"pollingInterval": "Periodic"}) == (
        "form.missing", "operations_config.schedule",
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["properties", "schema", "type", "enum", "oneOf", "dependencies", "required", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["schema", "properties", "required", "dependencies"]), JSON))
def test_no_form_however_odd_stops_its_reader(ui_spec: dict[str, Any]) -> None:
    for each in read_form(ui_spec).fields:
        assert each.path[0] in ("connector_config", "operations_config")
