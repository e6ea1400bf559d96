"""Instances of registry entries: pipelines whose source was filled in by the form of an entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace.connector import HIDDEN, ReadMode
from headrace.control.access import Actor, Guarded, Permission, needs
from headrace.control.builtin import NATIVE, OPERATIONS_FORM, Wanted, wanted
from headrace.control.form import CONNECTOR, OPERATIONS, Form, read_form
from headrace.errors import ConfigError, NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning
from headrace.model.registry import Instance, InstanceDraft, InstanceStatus, RegistryEntry
from headrace.store import Store

if TYPE_CHECKING:
    from headrace.control.connections import Connections
    from headrace.control.pipelines import Pipelines
    from headrace.control.registry import Registry
    from headrace.control.runs import Runs

OURS = "obsrv"
"""The corner of a pipeline's `extras` for what only instances have."""

SCHEDULES: Mapping[str, str] = {
    "Hourly": "0 * * * *",
    "Daily": "0 0 * * *",
    "Weekly": "0 0 * * 0",
    "Monthly": "0 0 1 * *",
    "Yearly": "0 0 1 1 *",
}


class Instances(Guarded):
    def __init__(
        self, store: Store, registry: Registry, connections: Connections, pipelines: Pipelines, runs: Runs
    ):
        super().__init__(store)
        self._registry = registry
        self._connections = connections
        self._pipelines = pipelines
        self._runs = runs

    @needs(Permission.PIPELINE_READ)
    def list(self, actor: Actor) -> Sequence[Instance]:
        """Those of the actor's workspace that the actor may see, by the names of their pipelines."""
        return [self._view(actor, p) for p in self._pipelines.list(actor) if OURS in p.extras]

    @needs(Permission.PIPELINE_READ)
    def get(self, actor: Actor, id: str) -> Instance:
        """Raises NotFoundError, also for a pipeline that is no instance."""
        return self._view(actor, self._of(actor, id))

    @needs(Permission.PIPELINE_WRITE, changes=True)
    def publish(self, actor: Actor, draft: InstanceDraft) -> Instance:
        """Make the connection and the pipeline of a live entry; without a schedule it runs once, now.

        The secrets in the form are kept like any other. Raises ConfigError that names the member of the
        form (`form.unknown`, `form.missing`, `form.invalid`), or says why the entry can't be run
        (`instances.not_runnable`); what `Connections.create` and `Pipelines.create` raise.
        """
        entry = self._registry.read(draft.entry, by=actor)
        form = _whole(self._registry.form(actor, draft.entry))
        form.check({CONNECTOR: draft.connector_config, OPERATIONS: draft.operations_config})
        source = _wanted(entry, form, draft.connector_config)
        if source is None:
            raise ConfigError(
                "instances.not_runnable",
                f"{draft.entry} can't be run here: {entry.origin.reason or 'its package is not installed'}",
                field="connector_id",
                remedy="Choose an entry that can be run, see headrace registry list.",
            )
        name = f"{draft.dataset} {draft.id[:8]}"
        connection = self._connections.create(
            actor, Connection(id="", name=name, connector=source.connector), source.settings
        )
        try:
            pipeline = self._pipelines.create(actor, _pipeline(name, connection.id, draft, source))
        except Exception:
            self._connections.delete(actor, connection.id)
            raise
        if pipeline.schedule is None and not pipeline.paused:
            self._runs.trigger(actor, pipeline.id)
        return self._view(actor, pipeline)

    @needs(Permission.PIPELINE_WRITE, changes=True)
    def retire(self, actor: Actor, id: str) -> Instance:
        """End it for good; its history stays. Raises as `get`, and as `Pipelines.update`."""
        pipeline = self._of(actor, id)
        extras = {**pipeline.extras, OURS: {**pipeline.extras[OURS], "retired": True}}
        ended = replace(pipeline, paused=True, schedule=None, extras=extras)
        return self._view(actor, self._pipelines.update(actor, ended))

    def _of(self, actor: Actor, id: str) -> Pipeline:
        pipeline = self._pipelines.get(actor, id)
        if OURS not in pipeline.extras:
            raise NotFoundError("instances.none", f"the pipeline {id} is no instance of the registry")
        return pipeline

    def _view(self, actor: Actor, pipeline: Pipeline) -> Instance:
        ours = pipeline.extras[OURS]
        store = self._in(actor)
        source = store.connections.get(pipeline.source)
        reached = source.tested is not None and source.tested.error is None
        runs = store.runs.list(pipeline.id)
        reached = reached or any(run.committed is not None for run in runs)
        status = InstanceStatus.LIVE if reached else InstanceStatus.PUBLISHING
        return Instance(
            id=pipeline.id,
            dataset=ours["dataset"],
            entry=ours["entry"],
            connector_config=ours[CONNECTOR],
            operations_config=ours[OPERATIONS],
            status=InstanceStatus.RETIRED if ours.get("retired") else status,
            state={saved.slice: saved.position for saved in store.checkpoints(pipeline.id)},
            rows=sum(run.committed or 0 for run in runs),
            created_at=pipeline.created_at,
            updated_at=pipeline.updated_at,
        )


def _whole(form: Form) -> Form:
    """With the usual members for how it runs, where the form has none of its own."""
    if any(field.path[0] == OPERATIONS for field in form.fields):
        return form
    return Form((*form.fields, *read_form(OPERATIONS_FORM).fields), form.warnings)


def _wanted(entry: RegistryEntry, form: Form, config: Mapping[str, Any]) -> Wanted | None:
    if entry.origin.contract == NATIVE:
        return wanted(entry.id, config)
    if entry.origin.connector is None:
        return None
    secrets = frozenset(".".join(path[1:]) for path in form.secrets())
    return Wanted(connector=entry.origin.connector, settings=config, stream="*", secrets=secrets)


def _pipeline(name: str, source: str, draft: InstanceDraft, of: Wanted) -> Pipeline:
    operations = draft.operations_config
    batch = operations.get("batch_size")
    cursor = of.cursor
    choice = StreamChoice(
        stream=of.stream,
        read=ReadMode.INCREMENTAL if cursor else ReadMode.FULL,
        cursor=cursor,
        target=draft.dataset if "*" not in of.stream else None,
    )
    ours = {
        "dataset": draft.dataset,
        "entry": draft.entry,
        CONNECTOR: _marked(draft.connector_config, of.secrets),
        OPERATIONS: dict(operations),
    }
    return Pipeline(
        id=draft.id,
        name=name,
        source=source,
        target=draft.target,
        streams=(choice,),
        tuning=Tuning(batch_rows=int(batch)) if batch else Tuning(),
        schedule=SCHEDULES[operations["schedule"]] if "schedule" in operations else None,
        paused=draft.paused,
        extras={OURS: ours},
    )


def _marked(config: Mapping[str, Any], secrets: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """The config with marks in the place of its secrets."""
    return {
        name: _marked(value, secrets, f"{prefix}{name}.")
        if isinstance(value, Mapping)
        else HIDDEN
        if prefix + name in secrets
        else value
        for name, value in config.items()
    }
