"""One attempt of one run, from plan to last acknowledgement: read this file first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.connector import Capability, Position, Slice, Staged, StreamRead
from headrace.engine.commit import Mark, Publication, Work, commit, standing
from headrace.engine.executors import Executor, Threads
from headrace.engine.follow import Follower, Published, Shared, nobody
from headrace.engine.plan import Job, PlannedStream, resolve, same_table
from headrace.engine.progress import Board
from headrace.engine.read import Aborted
from headrace.engine.retry import report
from headrace.engine.schema import SchemaChanged, land
from headrace.engine.state import StagedSlice, State
from headrace.engine.stop import Stop
from headrace.engine.write import Piece, StagedResult, TooManyRejects, check_limit
from headrace.errors import Fenced, HeadraceError, OutcomeUnknown, StageLost
from headrace.model.pipeline import SchemaPolicy, WriteMode
from headrace.model.run import StreamProgress, StreamStatus
from headrace.model.stream import ReadMode

bugs = logging.getLogger("headrace.bugs")
"""Traces of errors that are not ours; users see them with --debug only."""

_POLL = 0.2  # seconds between looks at the stop signal


_FATE = {
    WriteMode.APPEND: "its rows stay, and all of the stream's are added to them",
    WriteMode.UPSERT: "rows of the same key give way",
    WriteMode.REPLACE: "all of its rows give way",
}
"""What becomes of the rows of a table that this pipeline has never published into."""


@dataclass(kw_only=True)
class Load:
    """The slices of one stream that are published together, and what earlier attempts left over."""

    stream: PlannedStream
    slices: Sequence[Slice]
    staged: dict[str, StagedSlice] = field(default_factory=dict)
    leftovers: list[Staged] = field(default_factory=list)

    @property
    def missing(self) -> list[Slice]:
        return [slice for slice in self.slices if slice.key not in self.staged]

    @property
    def until(self) -> Position:
        return (self.slices[0].until or {}) if self.slices else {}


class _Skipped(Exception):
    """A slice that was not begun, because its stream has failed or the run is ending."""


def execute(job: Job, state: State, stop: Stop, published: Published = nobody) -> tuple[StreamProgress, ...]:
    """Run one attempt to its end; gives every stream's end state, a failure of one among the others.

    Raises what stops the whole attempt: the source or target is not to be reached, or the lease is
    lost (Fenced).
    """
    source, target = job.source(), job.target()
    executor = job.executor() if job.executor else Threads(source, target)
    try:
        shared = Shared(
            pipeline=job.pipeline,
            source=source,
            target=target,
            state=state,
            stop=Stop(stop),
            board=Board(state),
            keeps_unchanged=Capability.UNCHANGED in job.target_spec.capabilities,
            published=published,
        )
        return _Attempt(job, shared, executor).run()
    finally:
        executor.close()
        source.close()
        target.close()


class _Attempt:
    def __init__(self, job: Job, shared: Shared, executor: Executor):
        self.job = job
        self.shared = shared
        self.executor = executor
        self.board, self.state = shared.board, shared.state
        self.streams: dict[str, PlannedStream] = {}
        self.fatal: Fenced | None = None
        self.work: dict[Future[Any], Load | tuple[str, ...]] = {}

    def run(self) -> tuple[StreamProgress, ...]:
        planned, errors = resolve(self.job, self.shared.source)
        self.board.add(planned)
        for name, error in errors.items():
            self._fail((name,), error)
        for stream in planned:
            if stream.note:
                self.state.log("warning", stream.note, stream.id)
            self._stand(stream)
        epochs = [token.epoch for token in self.shared.tokens.values() if token]
        if epochs and max(epochs) > self.state.epoch:
            self.state.raise_epoch(max(epochs) + 1)
        for stream in planned:
            if not self._ended(stream.id):
                self._land(stream)
        loads, followed = self._cut()
        with ThreadPoolExecutor(self.job.pipeline.tuning.parallelism, "headrace-slice") as pool:
            try:
                self._start(pool, loads, followed)
                self._wait()
            except BaseException:
                self.shared.stop.abort()  # leaving the pool waits for its threads
                raise
        if self.fatal:
            raise self.fatal
        return self.board.results()

    def _stand(self, stream: PlannedStream) -> None:
        """Ask the target where the stream is; a stream that this run has finished is not read again."""
        try:
            token = self.shared.target.committed(stream.landed, self.job.pipeline.id)
        except HeadraceError as error:
            self._fail((stream.id,), error)
            return
        self.shared.tokens[stream.id] = token
        self.shared.remember(self.state.load(stream.id))
        mark = Mark.of(token)
        if mark is None or mark.run != self.state.run:
            return
        self.board.settle(stream.id, "", mark.counts)
        if mark.done:
            self.board.set(stream.id, StreamStatus.SUCCEEDED)
            self.state.drop_staged(stream.id)
            self.state.log("info", "published by an earlier attempt of this run", stream.id)

    def _land(self, stream: PlannedStream) -> None:
        policy = self.job.pipeline.schema_policy
        ours = self.shared.tokens.get(stream.id) is not None
        try:
            landed, found, stood = land(self.shared.target, stream.landed, stream.write, policy, ours=ours)
        except HeadraceError as error:
            self._fail((stream.id,), error)
            return
        if stood and not ours:
            fate = f"{landed.id} was there before: {_FATE[stream.write]}"
            self.state.log("warning", fate, stream.id)
        if found:
            self.state.log("warning", f"the schema changed: {found}", stream.id)
        self.streams[stream.id] = replace(stream, landed=landed)

    def _since(self, stream: PlannedStream) -> Position:
        if stream.read.mode is ReadMode.FULL:
            return {}
        return standing(self.shared.tokens[stream.id], self.state.load(stream.id), stream.id)

    def _cut(self) -> tuple[list[Load], list[Slice]]:
        reads = [stream.read for stream in self.streams.values()]
        slices = self._slices(reads)
        followed = [slice for slice in slices if slice.until is None]
        cut: dict[str, list[Slice]] = {}
        for slice in slices:
            if slice.until is not None:
                cut.setdefault(slice.read.stream.id, []).append(slice)
        busy = {*cut, *(r.stream.id for s in followed for r in s.reads)}
        for id, stream in self.streams.items():
            if id in busy or self._ended(id):
                continue
            if stream.write is WriteMode.REPLACE:
                cut[id] = []  # an empty source empties the table
            else:
                self.board.set(id, StreamStatus.SUCCEEDED)  # nothing new
        return [self._load(self.streams[id], slices) for id, slices in cut.items()], followed

    def _slices(self, reads: Sequence[StreamRead]) -> list[Slice]:
        """Let the source cut the work: all at once, or one by one so that a bad stream fails alone."""
        if not reads:
            return []
        since = {read.stream.id: self._since(self.streams[read.stream.id]) for read in reads}
        try:
            return list(self.shared.source.slices(reads, since))
        except HeadraceError as error:
            if len(reads) == 1:
                self._fail((reads[0].stream.id,), error)
                return []
        return [slice for read in reads for slice in self._slices([read])]

    def _load(self, stream: PlannedStream, slices: Sequence[Slice]) -> Load:
        """A load, with those slices of an earlier attempt that still hold.

        What was staged before this stream's last publish, or for another table, may be part of a table
        by now: it is neither published again nor removed.
        """
        load = Load(stream=stream, slices=slices)
        token = self.shared.tokens[stream.id]
        keys = {slice.key for slice in slices}
        earlier = self.state.load_staged(stream.id)
        for done in earlier:
            if not same_table(done.fingerprint, stream.fingerprint) or (token and done.epoch <= token.epoch):
                continue
            if (
                done.slice.key in keys
                and done.fingerprint == stream.fingerprint
                and self.shared.source.holds(done.slice, done.counts.read)
            ):
                load.staged[done.slice.key] = done
                self.board.settle(stream.id, done.slice.key, done.counts)
            else:
                load.leftovers.append(done.staged)
        if earlier:
            said = f"{len(load.staged)} of {len(slices)} slices were staged before"
            self.state.log("info", said, stream.id)
        return load

    def _start(self, pool: ThreadPoolExecutor, loads: Sequence[Load], followed: Sequence[Slice]) -> None:
        for slice in followed:
            ids = tuple(read.stream.id for read in slice.reads)
            self.work[pool.submit(self._follow, slice, ids)] = ids
        for load in loads:
            for slice in load.missing:
                self.work[pool.submit(self._stage, load, slice)] = load
        for load in loads:
            try:
                self._go_on(load)
            except Exception as error:
                self._fail((load.stream.id,), error)

    def _follow(self, slice: Slice, ids: Sequence[str]) -> bool:
        if self.shared.stop.draining:
            raise _Skipped
        for id in ids:
            self.board.set(id, StreamStatus.RUNNING)
        return Follower(self.shared, slice, {id: self.streams[id] for id in ids}).run()

    def _stage(self, load: Load, slice: Slice) -> StagedResult:
        id = load.stream.id
        if self.shared.stop.draining or self._ended(id):
            raise _Skipped
        self.board.set(id, StreamStatus.RUNNING)
        piece = Piece(
            slice=slice,
            stream=load.stream,
            tuning=self.job.pipeline.tuning,
            keeps_unchanged=self.shared.keeps_unchanged,
        )
        return self.executor.stage(
            piece, self.shared.stop, lambda counts: self.board.live(id, slice.key, counts)
        )

    def _wait(self) -> None:
        interrupted = False
        while self.work:
            done, _ = wait(self.work, timeout=_POLL, return_when=FIRST_COMPLETED)
            if self.shared.stop.aborted and not interrupted:
                interrupted = True
                self.shared.source.interrupt()
            for future in done:
                self._ended_one(future, self.work.pop(future))
        for id in self.streams:
            if not self._ended(id):
                self.board.set(id, StreamStatus.CANCELLED)

    def _ended_one(self, future: Future[Any], what: Load | tuple[str, ...]) -> None:
        ids = (what.stream.id,) if isinstance(what, Load) else what
        try:
            result = future.result()
            if isinstance(what, Load):
                self._staged(what, result)
            elif result:
                for id in ids:
                    self.board.set(id, StreamStatus.SUCCEEDED)
        except (_Skipped, Aborted):
            return
        except Exception as error:
            if self.shared.stop.aborted:
                return  # a read that was interrupted ends with whatever its driver makes of it
            self._fail(ids, error)

    def _staged(self, load: Load, result: StagedResult) -> None:
        id, done = load.stream.id, result.done
        self.state.reject(result.rejects)
        self.state.save_staged(id, done)
        load.staged[done.slice.key] = done
        self.board.settle(id, done.slice.key, done.counts)
        if self._ended(id):
            return
        self._go_on(load)

    def _go_on(self, load: Load) -> None:
        """Publish the load if nothing of it is missing. Raises TooManyRejects."""
        id = load.stream.id
        check_limit(id, self.board.counts(id).rejected, self.job.pipeline.tuning.reject_limit)
        if not load.missing and not self.shared.stop.aborted:
            self._publish(load)

    def _publish(self, load: Load) -> None:
        """All slices are staged: one commit makes the load visible."""
        shared, stream = self.shared, load.stream
        token = shared.token(stream.id, load.until, done=True, counts=self.board.counts(stream.id))
        staged = [load.staged[slice.key].staged for slice in load.slices]
        work = Work(
            key=stream.id,
            position=load.until,
            publications=(Publication(stream=stream, staged=staged, token=token),),
            tokens={stream.id: token},
            slices=load.slices,
            source=shared.source,
            target=shared.target,
            state=self.state,
        )
        try:
            with shared.publishing:
                commit(work)
        except (OutcomeUnknown, StageLost) as error:
            # what may land yet is no leftover to be discarded, and what is lost is not to be tried again
            self.state.drop_staged(stream.id)
            self._fail((stream.id,), error)
        except HeadraceError as error:
            self._fail((stream.id,), error)
        else:
            shared.tokens[stream.id] = token
            shared.published(stream)
            self.board.set(stream.id, StreamStatus.SUCCEEDED)
            self._tidy(load)

    def _tidy(self, load: Load) -> None:
        """Only now are leftovers safe to remove: a worker that still means to publish them is fenced off."""
        if not load.leftovers:
            return
        try:
            self.shared.target.discard(load.stream.landed, load.leftovers)
        except HeadraceError as error:
            said = f"what an earlier attempt had staged is left over: {error.message}"
            self.state.log("warning", said, load.stream.id)

    def _ended(self, id: str) -> bool:
        return self.board.status(id).ended

    def _fail(self, ids: Sequence[str], error: BaseException) -> None:
        ours = report(error)
        pausing = isinstance(ours, SchemaChanged) and self.job.pipeline.schema_policy is SchemaPolicy.PAUSE
        status = StreamStatus.PAUSED if pausing else StreamStatus.FAILED
        if isinstance(ours, Fenced):  # another worker owns the pipeline: nothing here may go on
            self.fatal = ours
            self.shared.stop.abort()
        if ours is not error and isinstance(error, Exception):
            bugs.exception("stream %s ended by a bug", ", ".join(ids), exc_info=error)
        if isinstance(ours, TooManyRejects):
            self.state.reject(ours.rejects)
        for id in ids:
            self.board.set(id, status, ours)
            self.state.log("error", f"{ours.code}: {ours.message}", id)


__all__ = ["Job", "Stop", "execute"]
