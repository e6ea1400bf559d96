"""Uploading for a test: a person in a workspace, files taken in, imports done to their end."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headrace import catalog
from headrace.connector import Stream
from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.engine.stop import Stop
from headrace.model.file import File, FileProfile, ImportPlan, ReadOptions
from tests.integration.tenants import add_user, signed_in


class Person:
    """Somebody in a workspace of their own."""

    def __init__(self, platform: Platform, name: str = "ann"):
        self.platform = platform
        user = add_user(platform._store, f"{name}@here.local")
        self.actor: Actor = platform.workspaces.own(signed_in(user))

    def upload(self, name: str, data: bytes, step: int = 1 << 20) -> File:
        with self.platform.files.receive(self.actor, name) as incoming:
            for at in range(0, len(data), step):
                incoming.write(data[at : at + step])
            return incoming.finish()

    def profile(self, name: str, data: bytes, **options: Any) -> FileProfile:
        """Upload, and what is found in it."""
        file = self.upload(name, data)
        if options:
            plan = ImportPlan(table="t")
            file = self.platform.files.plan(self.actor, file.id, plan, ReadOptions(**options))
        found = self.platform.files.preview(self.actor, file.id).profile
        assert found is not None
        return found

    def types(self, name: str, data: bytes, **options: Any) -> dict[str, str]:
        return {c.name: c.type for c in self.profile(name, data, **options).columns}

    def bring(self, name: str, data: bytes, plan: ImportPlan | None = None, **options: Any) -> File:
        """Upload and import to the end."""
        file = self.upload(name, data)
        given = ReadOptions(**options) if options else None
        self.platform.files.plan(self.actor, file.id, plan or ImportPlan(table="t"), given)
        return self.finish(file.id)

    def finish(self, id: str) -> File:
        self.platform.files.start(self.actor, id)
        while self.platform.importer.step(Stop()):
            pass
        return self.platform.files.get(self.actor, id)

    def table(self, name: str = "t", namespace: str | None = "raw_data") -> pa.Table:
        """What is in a table now."""
        return scan(self.platform, self.actor, name, namespace)


def scan(platform: Platform, actor: Actor, name: str, namespace: str | None) -> pa.Table:
    endpoint = platform._table_target(actor.place)
    target: Any = catalog.target(endpoint.connector, endpoint.settings)
    try:
        found = target._find(Stream(name=name, namespace=namespace, schema=pa.schema([])))
        assert found is not None, f"there is no table {name}"
        table: pa.Table = found.scan().to_arrow()
        return table
    finally:
        target.close()
