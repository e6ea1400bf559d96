"""Leases: which worker owns a pipeline, and the epoch that fences off the ones before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, select, update

from headrace.errors import ConflictError, Fenced, NotFoundError
from headrace.store.database import Database
from headrace.store.schema import leases, pipelines


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to publish for one pipeline, until somebody else takes it over.

    `id` is new at each takeover and stays while the epoch is raised, so it alone tells whether the
    lease is still ours; `epoch` is the one at the time this value was made.
    """

    id: str
    pipeline: str
    holder: str
    epoch: int
    expires_at: datetime


class Leases:
    """A lease that ran out stays its holder's until another one acquires it."""

    def __init__(self, database: Database, workspace: str):
        self._database = database
        self._workspace = workspace

    def acquire(self, pipeline: str, holder: str, ttl: timedelta) -> Lease:
        """Take the pipeline with the next epoch; a holder may take over from itself.

        Raises ConflictError (`store.leased`) while another holder's lease is live.
        """
        database = self._database
        with database.write() as connection:
            refuse_foreign(connection, pipeline, self._workspace)
            now = database.now(connection)
            # A row to lock, which two first comers can't both make.
            free = {"id": "", "holder": "", "epoch": 0, "expires_at": now}
            stamped = {"pipeline": pipeline, "created_at": now, "updated_at": now}
            connection.execute(database.add(leases), free | stamped)
            row = connection.execute(
                select(leases).where(leases.c.pipeline == pipeline).with_for_update()
            ).one()
            now = database.now(connection)
            if row.expires_at > now and row.holder != holder:
                raise _leased(pipeline, row.holder, row.expires_at)
            lease = Lease(
                id=str(uuid4()),
                pipeline=pipeline,
                holder=holder,
                epoch=row.epoch + 1,
                expires_at=now + ttl,
            )
            connection.execute(
                update(leases)
                .where(leases.c.pipeline == pipeline)
                .values(
                    id=lease.id,
                    holder=holder,
                    epoch=lease.epoch,
                    expires_at=lease.expires_at,
                    updated_at=now,
                )
            )
            return lease

    def renew(self, lease: Lease, ttl: timedelta) -> Lease:
        """Hold on for `ttl` from now. Raises Fenced (`store.lease_lost`) when it was taken over."""
        with self._database.write() as connection:
            epoch = hold(connection, lease, alone=True)
            now = self._database.now(connection)
            connection.execute(
                update(leases)
                .where(leases.c.pipeline == lease.pipeline)
                .values(expires_at=now + ttl, updated_at=now)
            )
        return replace(lease, epoch=epoch, expires_at=now + ttl)

    def release(self, lease: Lease) -> None:
        """Let others in at once; does nothing when the lease was taken over. The epoch stays."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                update(leases)
                .where(leases.c.pipeline == lease.pipeline, leases.c.id == lease.id)
                .values(expires_at=now, updated_at=now)
            )

    def holds(self, lease: Lease) -> bool:
        """Did nobody take it over? It may have run out."""
        with self._database.read() as connection:
            query = select(leases.c.id).where(leases.c.pipeline == lease.pipeline)
            return connection.execute(query).scalar_one_or_none() == lease.id

    def get(self, pipeline: str) -> Lease | None:
        """The live lease of a pipeline."""
        with self._database.read() as connection:
            mine = leases.c.pipeline == pipeline, pipelines.c.workspace == self._workspace
            row = connection.execute(select(leases).join(pipelines).where(*mine)).one_or_none()
            if row is None or row.expires_at <= self._database.now(connection):
                return None
        return Lease(
            id=row.id, pipeline=pipeline, holder=row.holder, epoch=row.epoch, expires_at=row.expires_at
        )


def hold(connection: Connection, lease: Lease, *, alone: bool = False) -> int:
    """Make sure that `lease` is not taken over before this transaction ends; gives its epoch.

    `alone` is for who goes on to change the lease. Raises Fenced (`store.lease_lost`).
    """
    row = connection.execute(
        select(leases.c.id, leases.c.epoch, leases.c.holder)
        .where(leases.c.pipeline == lease.pipeline)
        .with_for_update(read=not alone)
    ).one_or_none()
    if row is None or row.id != lease.id:
        owner = f"{row.holder} holds it with epoch {row.epoch}" if row else "the pipeline is gone"
        raise Fenced(
            "store.lease_lost",
            f"{lease.holder} lost pipeline {lease.pipeline} (epoch {lease.epoch}): {owner}",
            remedy="Nothing to do: the newer worker carries on.",
        )
    epoch: int = row.epoch
    return epoch


def refuse_foreign(connection: Connection, pipeline: str, workspace: str) -> None:
    """Raise NotFoundError unless the workspace has that pipeline; it stays until the transaction ends."""
    mine = pipelines.c.id == pipeline, pipelines.c.workspace == workspace
    row = connection.execute(select(pipelines.c.id).where(*mine).with_for_update(read=True, key_share=True))
    if row.one_or_none() is None:
        raise NotFoundError("store.no_pipeline", f"there is no pipeline {pipeline}")


def refuse_leased(database: Database, connection: Connection, pipeline: str) -> None:
    """Raise ConflictError (`store.leased`) while somebody works on the pipeline."""
    row = connection.execute(
        select(leases.c.holder, leases.c.expires_at).where(leases.c.pipeline == pipeline).with_for_update()
    ).one_or_none()
    if row is not None and row.expires_at > database.now(connection):
        raise _leased(pipeline, row.holder, row.expires_at)


def _leased(pipeline: str, holder: str, until: datetime) -> ConflictError:
    return ConflictError(
        "store.leased",
        f"pipeline {pipeline} is being worked on by {holder}, "
        f"whose lease ends at {until:%Y-%m-%d %H:%M:%S} UTC unless renewed",
        remedy="Wait for that run to end, or stop it.",
    )
