"""Runs: asked for, looked at, cancelled, or carried out in this process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headrace.control.access import Actor, Guarded, Permission, needs, of_team, refuse_other_teams
from headrace.control.execution import Execution
from headrace.control.lease import held
from headrace.control.watch import Watcher
from headrace.engine.plan import Job
from headrace.engine.stop import Stop
from headrace.model.run import LogLine, Outcome, Run, RunFilter, RunOrder, RunStatus
from headrace.store import Lease, Page, Store

EVERY = RunFilter()


class Runs(Guarded):
    @needs(Permission.RUN_READ)
    def get(self, actor: Actor, id: str) -> Run:
        """Raises NotFoundError, and AuthError for a run of a team that the actor is not in."""
        run = self._in(actor).runs.get(id)
        refuse_other_teams(actor, run.team, change=False)
        return run

    @needs(Permission.RUN_READ)
    def list(self, actor: Actor, pipeline: str | None = None, limit: int = 20) -> Sequence[Run]:
        """The newest first, of what the actor may see."""
        teams = None if actor.sees_all_teams else actor.teams
        return self._in(actor).runs.list(pipeline, limit, teams=teams)

    @needs(Permission.RUN_READ)
    def logs(self, actor: Actor, id: str, after: int = 0) -> Sequence[LogLine]:
        """The lines after line `after`, the oldest first; not always all of them at once.

        Raises what `get` raises.
        """
        if not actor.sees_all_teams:
            self.get(actor, id)
        return self._in(actor).runs.logs(id, after)

    @needs(Permission.RUN_READ)
    def page(
        self,
        actor: Actor,
        wanted: RunFilter = EVERY,
        order: Sequence[tuple[RunOrder, bool]] = ((RunOrder.QUEUED, True),),
        offset: int = 0,
        limit: int = 50,
    ) -> Page[Run]:
        """One page of what the actor may see; `order` is by what, and whether downwards."""
        teams = None if actor.sees_all_teams else actor.teams
        return self._in(actor).runs.page(wanted, order, offset, limit, teams=teams)

    @needs(Permission.RUN_READ)
    def outcomes(self, actor: Actor, pipelines: Collection[str]) -> Mapping[str, Outcome]:
        """How pipelines that the actor may see have gone so far, by id; those without a finished run
        are left out."""
        return self._in(actor).runs.outcomes(tuple(pipelines))

    @needs(Permission.RUN_WRITE, changes=True)
    def trigger(self, actor: Actor, pipeline: str) -> Run:
        """A run that the next free worker takes up. Raises NotFoundError, ConflictError
        (`store.run_unfinished`) while another one waits or runs."""
        store = self._in(actor)
        of_team(store, actor, pipeline, change=True)
        wanted = store.pipelines.get(pipeline)
        for end in (wanted.source, wanted.target):  # a run uses their secrets
            refuse_other_teams(actor, store.connections.get(end).team, change=True)
        return store.runs.queue(pipeline)

    @needs(Permission.RUN_WRITE, changes=True)
    def cancel(self, actor: Actor, id: str) -> Run:
        """What waits ends at once, what runs soon: nothing half committed. May be repeated meanwhile.

        Raises NotFoundError, ConflictError (`store.run_ended`).
        """
        store = self._in(actor)
        refuse_other_teams(actor, store.runs.get(id).team, change=True)
        return store.runs.ask_to_end(id)

    @needs(Permission.RUN_WRITE)
    def run(self, actor: Actor, job: Job, stop: Stop, watcher: Watcher) -> Run:
        """Run a remembered pipeline to its end, again and again while its faults may pass.

        A run that died half-way is carried on rather than begun anew. Raises ConflictError when
        somebody else works on the pipeline, Fenced when somebody took it over; what else goes wrong
        is in the run. A bug is remembered as the run's failure, and raised.
        """
        store = self._in(actor)
        of_team(store, actor, job.pipeline.id, change=True)
        with held(store, job.pipeline.id, stop) as lease:
            run = _carried_on(store, job.pipeline.id, lease) or store.runs.queue(job.pipeline.id)
            watcher.started(run)
            return Execution(store=store, job=job, lease=lease, stop=stop, watcher=watcher).to_the_end(run)


def unfinished(store: Store, pipeline: str) -> Sequence[Run]:
    """The run of the pipeline that waits or runs, if there is one."""
    wanted = RunFilter(pipeline=pipeline, statuses=(RunStatus.QUEUED, RunStatus.RUNNING))
    return store.runs.page(wanted, (), 0, 1).items


def _carried_on(store: Store, pipeline: str, lease: Lease) -> Run | None:
    """What waits for a worker, or was left by one that died: the lease, which is ours now, says so."""
    for run in unfinished(store, pipeline):
        return store.runs.requeue(run.id, lease=lease) if run.status is RunStatus.RUNNING else run
    return None
