"""Pipelines: remembered as their user last said them, and made ready to run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from headrace import catalog
from headrace.connector import Selection
from headrace.control.connections import discover
from headrace.control.endpoint import Endpoint, public
from headrace.engine.executors import Executor, Processes
from headrace.engine.plan import Job
from headrace.errors import NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, TransformStep

if TYPE_CHECKING:
    from headrace.store import Store


class Pipelines:
    def __init__(self, store: Store):
        self._store = store

    def list(self) -> Sequence[Pipeline]:
        """By name."""
        return self._store.pipelines.list()

    def get(self, name: str) -> Pipeline:
        """By name. Raises NotFoundError."""
        return self._store.pipelines.by_name(name)

    def ends(self, pipeline: Pipeline) -> tuple[Endpoint, Endpoint]:
        """Source and target as they are remembered, with the secrets that are sealed and no others."""
        known = self._store.connections
        source, target = (
            Endpoint(name=id, connector=known.get(id).connector, settings=known.settings(id))
            for id in (pipeline.source, pipeline.target)
        )
        return source, target

    def remember(self, pipeline: Pipeline, source: Endpoint, target: Endpoint) -> Pipeline:
        """Store the pipeline as it is now, and where it reads and writes: without any secret.

        Gives what was stored; to run it, hand `job` the pipeline with its secrets.
        """
        pipeline = replace(pipeline, transforms=tuple(_without_secrets(t) for t in pipeline.transforms))
        for endpoint in (source, target):
            self._remember(endpoint.connection())
        try:
            known = self._store.pipelines.get(pipeline.id)
        except NotFoundError:
            return self._store.pipelines.save(replace(pipeline, version=0))
        pipeline = replace(pipeline, version=known.version)
        return known if pipeline == known else self._store.pipelines.save(pipeline)

    def _remember(self, connection: Connection) -> None:
        connection = replace(connection, secrets=())
        try:
            known = self._store.connections.get(connection.id)
        except NotFoundError:
            self._store.connections.save(connection)
            return
        if (known.connector, known.settings) != (connection.connector, connection.settings):
            self._store.connections.save(replace(connection, version=known.version))


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
