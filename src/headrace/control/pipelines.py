"""Pipelines: remembered as their user last said them, and made ready to run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace import catalog
from headrace.connector import Selection, egress
from headrace.control.access import Actor, Guarded, Permission, needs, refuse_other_teams
from headrace.control.connections import discover, stored
from headrace.control.endpoint import Endpoint, public
from headrace.control.schedule import following
from headrace.engine.executors import Executor, Processes
from headrace.engine.plan import Job
from headrace.errors import NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, TransformStep

if TYPE_CHECKING:
    from headrace.store import Store


class Pipelines(Guarded):
    @needs(Permission.PIPELINE_READ)
    def list(self, actor: Actor) -> Sequence[Pipeline]:
        """By name: those that the actor may see."""
        return [p for p in self._in(actor).pipelines.list() if actor.sees(p.team)]

    @needs(Permission.PIPELINE_READ)
    def get(self, actor: Actor, id: str) -> Pipeline:
        """Raises NotFoundError, and AuthError for one of a team that the actor is not in."""
        found = self._in(actor).pipelines.get(id)
        refuse_other_teams(actor, found.team, change=False)
        return found

    @needs(Permission.PIPELINE_READ)
    def by_name(self, actor: Actor, name: str) -> Pipeline:
        """Raises NotFoundError, also for one of a team that the actor is not in: names can be guessed."""
        found = self._in(actor).pipelines.by_name(name)
        if not actor.sees(found.team):
            raise NotFoundError("store.no_pipeline", f"there is no pipeline {name!r}")
        return found

    @needs(Permission.PIPELINE_WRITE, changes=True)
    def create(self, actor: Actor, pipeline: Pipeline) -> Pipeline:
        """Store a new one; its id is the caller's choice, and random.

        Raises NotFoundError for a connection or team of another workspace, AuthError for one of another
        team, ConfigError for a schedule that is none (`schedule.invalid`).
        """
        self._refuse_foreign(actor, pipeline)
        return self._in(actor).pipelines.save(replace(pipeline, version=0), next_run(pipeline))

    @needs(Permission.PIPELINE_WRITE, changes=True)
    def update(self, actor: Actor, pipeline: Pipeline) -> Pipeline:
        """Store it over the version that it was read at. Raises what `create` raises, and ConflictError
        (`store.changed`) when somebody else was quicker."""
        self._changeable(actor, pipeline.id)
        self._refuse_foreign(actor, pipeline)
        return self._in(actor).pipelines.save(pipeline, next_run(pipeline))

    @needs(Permission.PIPELINE_WRITE, changes=True)
    def delete(self, actor: Actor, id: str) -> None:
        """Its checkpoints and rejects go too; its finished runs and its tables stay. Raises ConflictError
        while a worker holds it (`store.leased`) or a run waits (`store.run_unfinished`)."""
        self._changeable(actor, id)
        self._in(actor).pipelines.delete(id)

    @needs(Permission.RUN_WRITE)
    def ends(self, actor: Actor, pipeline: Pipeline) -> tuple[Endpoint, Endpoint]:
        """Source and target as they are remembered, with the secrets that are sealed and no others: for
        running it, never to show."""
        store = self._in(actor)
        source, target = (replace(stored(store, id), name=id) for id in (pipeline.source, pipeline.target))
        return source, target

    # A run leaves traces of its own, and a command line that remembers what it runs leaves no others.
    @needs(Permission.PIPELINE_WRITE)
    def remember(self, actor: Actor, pipeline: Pipeline, source: Endpoint, target: Endpoint) -> Pipeline:
        """Store the pipeline as it is now, and where it reads and writes: without any secret.

        Gives what was stored; to run it, hand `job` the pipeline with its secrets.
        """
        store = self._in(actor)
        pipeline = replace(pipeline, transforms=tuple(_without_secrets(t) for t in pipeline.transforms))
        for endpoint in (source, target):
            _remember(store, endpoint.connection())
        try:
            known = store.pipelines.get(pipeline.id)
        except NotFoundError:
            return store.pipelines.save(replace(pipeline, version=0), next_run(pipeline))
        refuse_other_teams(actor, known.team, change=True)
        pipeline = replace(pipeline, version=known.version)
        if pipeline == known:
            return known
        return store.pipelines.save(replace(pipeline, created_at=known.created_at), next_run(pipeline))

    def _changeable(self, actor: Actor, id: str) -> None:
        refuse_other_teams(actor, self.get(actor, id).team, change=True)

    def _refuse_foreign(self, actor: Actor, pipeline: Pipeline) -> None:
        store = self._in(actor)
        if pipeline.team is not None:
            store.teams.get(actor.place, pipeline.team)
        refuse_other_teams(actor, pipeline.team, change=True)
        for id in (pipeline.source, pipeline.target):
            refuse_other_teams(actor, store.connections.get(id).team, change=True)


def next_run(pipeline: Pipeline) -> datetime | None:
    """When its schedule asks for a run next. Raises ConfigError (`schedule.invalid`)."""
    if pipeline.schedule is None:
        return None
    soon = following(pipeline.schedule, datetime.now(UTC))
    return None if pipeline.paused else soon


def _remember(store: Store, connection: Connection) -> None:
    connection = replace(connection, secrets=())
    try:
        known = store.connections.get(connection.id)
    except NotFoundError:
        store.connections.save(connection)
        return
    if (known.connector, known.settings) != (connection.connector, connection.settings):
        store.connections.save(replace(connection, version=known.version))


def _without_secrets(step: TransformStep) -> TransformStep:
    spec = catalog.transforms().get(step.name)  # an unknown one is reported by the run
    return replace(step, settings=public(spec.config, step.settings)) if spec else step


def job(pipeline: Pipeline, source: Endpoint, target: Endpoint) -> Job:
    """The pipeline with all that the engine needs besides memory."""
    return Job(
        pipeline=pipeline,
        source_spec=source.spec,
        target_spec=target.spec,
        source=source.source,
        target=target.target,
        transform=catalog.transform,
        executor=_processes(pipeline, source, target) if pipeline.tuning.processes else None,
    )


def _processes(pipeline: Pipeline, source: Endpoint, target: Endpoint) -> Callable[[], Executor]:
    """What starts the worker processes of a run."""
    hello: dict[str, Any] = {
        side: {"connector": end.connector, "settings": end.settings}
        for side, end in (("source", source), ("target", target))
    }
    hello["egress"] = egress.policy().to_json()
    hello["connectors"] = str(catalog.folder() or "")
    hello["transforms"] = [asdict(step) for step in pipeline.transforms]
    return lambda: Processes([sys.executable, "-m", "headrace.control.stage"], hello)


def without(
    streams: Sequence[StreamChoice], exclude: Sequence[str], source: Endpoint
) -> tuple[StreamChoice, ...]:
    """The choices with the excluded streams left out; patterns become the streams that they stand for now."""
    if not exclude:
        return tuple(streams)
    left: list[StreamChoice] = []
    for choice in streams:
        found = discover(source, Selection((choice.stream,), tuple(exclude)))
        left += [
            replace(choice, stream=stream.id) for stream in found if stream.id not in {c.stream for c in left}
        ]
        if not found and choice.stream not in Selection((), tuple(exclude)):
            continue
        if not found:
            left.append(choice)  # so that the run says that there is no such stream
    return tuple(left)
