"""What every entry of the catalogue must tell, and that no waiver has outlived its reason."""

from __future__ import annotations

import pytest

from headrace import catalog
from headrace.connector import Maturity
from headrace.errors import NotFoundError
from tests.conformance.conftest import KINDS, WAIVERS


@pytest.mark.parametrize("name", catalog.connectors())
def test_an_entry_is_complete_and_agrees_with_itself(name: str) -> None:
    spec = catalog.connector(name)
    assert spec.name == name and spec.title and spec.version
    usable = spec.unavailable is None
    assert usable == (spec.maturity is not Maturity.PLANNED)
    assert bool(spec.source) == (spec.reads and usable)
    assert bool(spec.target) == (spec.writes and usable)
    assert spec.reads or spec.writes
    for info in spec.config.model_fields.values():
        assert info.description and info.description.endswith(".")


def test_no_two_connectors_answer_to_one_scheme() -> None:
    schemes = [scheme for spec in catalog.connectors().values() for scheme in spec.config.schemes]
    assert len(set(schemes)) == len(schemes)


def test_an_unknown_connector_is_told_with_the_nearest_name() -> None:
    with pytest.raises(NotFoundError) as raised:
        catalog.connector("postgress")
    assert raised.value.remedy == "Did you mean 'postgres'?"


@pytest.mark.parametrize("waiver", WAIVERS, ids=lambda waiver: f"{waiver['connector']}-{waiver['test']}")
def test_a_waiver_names_a_connector_a_kind_and_a_reason(waiver: dict[str, str]) -> None:
    assert waiver["connector"] in catalog.connectors()
    assert waiver["kind"] in KINDS
    assert waiver["reason"].endswith(".")
