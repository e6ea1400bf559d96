"""The store as its users see it: opened by a URL, brought to the newest schema, closed."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sqlalchemy import select

from headrace.model.workspace import LOCAL
from headrace.store import positions
from headrace.store.attempt import Attempt
from headrace.store.audit import Audit
from headrace.store.connections import Connections
from headrace.store.database import Database
from headrace.store.directory import Directories
from headrace.store.files import Files
from headrace.store.imports import Imports
from headrace.store.leases import Lease, Leases, hold
from headrace.store.measures import Measures
from headrace.store.migrate import migrate
from headrace.store.pipelines import Pipelines
from headrace.store.positions import DeadLetter, SliceCheckpoint
from headrace.store.queue import Queue
from headrace.store.registry import Registry
from headrace.store.runs import Runs
from headrace.store.schedules import Schedules
from headrace.store.schema import maintenance
from headrace.store.secrets import MasterKeys
from headrace.store.teams import Teams
from headrace.store.tokens import Tokens
from headrace.store.users import Users
from headrace.store.workspaces import Workspaces


class Store:
    """One workspace of a store. May be used from many threads. A child process opens its own.

    People and what lets them in (`users`, `workspaces`, `teams`, `tokens`, `audit`, `directories`), the
    `registry` of connectors, and what workers, clocks and operators look at (`queue`, `schedules`,
    `measures`, `imports`), are of the whole store; all else that it finds or changes is of its workspace.
    """

    def __init__(self, database: Database, keys: MasterKeys, workspace: str = LOCAL):
        self._database = database
        self._keys = keys
        self.workspace = workspace
        self.connections = Connections(database, keys, workspace)
        self.pipelines = Pipelines(database, workspace)
        self.runs = Runs(database, workspace)
        self.leases = Leases(database, workspace)
        self.files = Files(database, workspace)
        self.users = Users(database)
        self.workspaces = Workspaces(database)
        self.teams = Teams(database)
        self.tokens = Tokens(database)
        self.audit = Audit(database)
        self.directories = Directories(database)
        self.registry = Registry(database)
        self.queue = Queue(database)
        self.schedules = Schedules(database)
        self.measures = Measures(database)
        self.imports = Imports(database)

    def within(self, workspace: str) -> Store:
        """Another workspace of the same store; only one of the two is to be closed."""
        return Store(self._database, self._keys, workspace)

    @classmethod
    def open(cls, url: str, *, keys: MasterKeys) -> Store:
        """The local workspace of a store.

        Open `sqlite:///path` or `postgresql://…`, and migrate it first where that is needed.

        Raises ConfigError for an address or file that can't be used, or one that a newer headrace has
        migrated; TransientError while the database is away, here as in every other call.
        """
        database = Database(url)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database, keys)

    def attempt(self, run: str, lease: Lease) -> Attempt:
        """The memory of the run's current attempt, for the engine; the run has been started."""
        return Attempt(self._database, run, lease)

    def checkpoints(self, pipeline: str) -> list[SliceCheckpoint]:
        """Where each slice of the pipeline stands; the target's own token is the truth."""
        with self._database.read() as transaction:
            return positions.read_checkpoints(transaction, pipeline, self.workspace)

    def rejects(self, pipeline: str, stream: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        with self._database.read() as transaction:
            return positions.read_rejects(transaction, pipeline, self.workspace, stream, limit)

    def count_rejects(self, pipeline: str) -> dict[str, int]:
        """How many dead letters there are, by stream."""
        with self._database.read() as transaction:
            return positions.count_rejects(transaction, pipeline, self.workspace)

    def looked_after(self, pipeline: str, table: str, step: str) -> datetime | None:
        """When the pipeline last looked whether the table is in need of this step of maintenance."""
        mine = maintenance.c.pipeline == pipeline, maintenance.c.target_table == table
        with self._database.read() as transaction:
            query = select(maintenance.c.looked_at).where(*mine, maintenance.c.step == step)
            return transaction.execute(query).scalar_one_or_none()

    def look_after(self, table: str, step: str, lease: Lease) -> None:
        """The pipeline of the lease looks now."""
        row = {"target_table": table, "step": step, "looked_at": datetime.now(UTC)}
        with self._database.write() as transaction:
            hold(transaction, lease)
            transaction.execute(self._database.put(maintenance), row | {"pipeline": lease.pipeline})

    def rotate(self) -> int:
        """Wrap every secret's data key with the current master key; gives how many were wrapped anew.

        Afterwards the older master keys are no longer needed. Secrets stay readable throughout.
        """
        return self.connections.rotate()

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
