"""Move a stream's position on purpose: the only way in which a position ever goes back."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.connector import Position, Token, WriteMode
from headrace.engine.commit import Mark
from headrace.engine.plan import Job, position_of, resolve
from headrace.engine.state import State
from headrace.errors import NotFoundError
from headrace.model.run import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewound:
    """What a rewind did, or would do. `doubles` says that re-read rows come a second time (append)."""

    stream: str
    before: Position
    after: Position
    write: WriteMode
    doubles: bool


def rewind(job: Job, state: State, stream: str, position: Position, *, dry: bool = False) -> Rewound:
    """Make the next run of `stream` read from `position` (`{}` is the start).

    The new position is published into the target with no rows, under the lease of `state`, so that
    target and store agree. With `dry` it only says what would happen.
    """
    source, target = job.source(), job.target()
    try:
        planned, errors = resolve(job, source)
        found = next((p for p in planned if p.id == stream), None)
        if found is None:
            if stream in errors:
                raise errors[stream]
            raise NotFoundError(
                "rewind.stream_missing",
                f"the pipeline has no stream {stream!r}",
                field="stream",
                remedy=f"Its streams are: {', '.join(p.id for p in planned)}.",
            )
        last = target.committed(found.landed, job.pipeline.id)
        if last is None:
            raise NotFoundError(
                "rewind.nothing_published",
                f"{stream} has no position to move: nothing of it was published into {found.landed.id}",
                field="stream",
                remedy="Run the pipeline: what was never published is read from the start.",
            )
        rewound = Rewound(
            stream=stream,
            before=position_of(last),
            after=position,
            write=found.write,
            doubles=found.write is WriteMode.APPEND,
        )
        if dry:
            return rewound
        if last.epoch > state.epoch:
            state.raise_epoch(last.epoch + 1)
        saved = state.load(stream)
        known = saved.tokens.get(stream) if saved else None
        sequence = max(last.sequence, known.sequence if known else 0) + 1
        mark = Mark(at=position, run=state.run, done=False, counts=Counts())
        token = Token(pipeline=job.pipeline.id, epoch=state.epoch, sequence=sequence, position=mark.to_json())
        # mode append, whatever the pipeline's: a publish of no rows must leave the table as it is
        target.publish(found.landed, WriteMode.APPEND, (), token)
        state.save(stream, position, {stream: token})
        state.drop_staged(stream)
        return rewound
    finally:
        source.close()
        target.close()
