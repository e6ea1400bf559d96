"""Requests made up from each API's own description, by every role: it holds, and nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode

from headrace.control.platform import Platform
from headrace.dialects.door import Door
from headrace.model.workspace import Role
from tests.dialects.conftest import Caller
from tests.dialects.test_coverage import DIALECTS

# What a schema can't say: that a host must exist, a name be free, a connector's settings fit.
ACCEPTED = ["2xx", "400", "401", "403", "404", "409", "422", "429"]
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ACCEPTED},
            "negative_data_rejection": {"expected-statuses": ACCEPTED},
            "missing_required_header": {"expected-statuses": ["400", "401", "403", "404", "422"]},
        }
    }
)
PER_OPERATION = 2


def operations(dialect: str, platform: Platform) -> list[Any]:
    app = import_module(f"headrace.dialects.{dialect}").app(Door(platform))
    schema = schemathesis.openapi.from_dict(app.openapi(), config=CONFIG)
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("role", ["owner", "viewer", "stranger"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_description_holds(
    dialect: str, role: str, platform: Platform, enter: Callable[..., Caller]
) -> None:
    ann = enter()
    who = ann if role == "owner" else enter("eve@here.local")
    if role == "viewer":
        token = ann.http.headers["authorization"].split()[1]
        owner = platform.workspaces.enter(platform.sessions.authenticate(token), ann.workspace)
        platform.workspaces.add_member(owner, who.email, Role.VIEWER)
    headers = {"Authorization": who.http.headers["authorization"], "X-Tenant-Id": ann.workspace}
    checks = CHECKS.get_all()
    failures: list[str] = []
    for operation in operations(dialect, platform):
        if operation.label in ("POST /api/auth/jwt/logout", "POST /api/users/import-all"):
            continue  # they would end what the others need
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=PER_OPERATION,
                phases=[Phase.generate],
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                answer = case.call(base_url=str(who.http.base_url), headers=headers)
                case.validate_response(answer, checks=checks)

            try:
                one()
            except Unsatisfiable:
                continue  # there is no way to get this one wrong
            except Exception as error:
                failures.append(f"{operation.label} {mode.value}: {error}")
    assert not failures, "\n\n".join(failures)
