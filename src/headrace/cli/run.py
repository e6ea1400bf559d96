"""`headrace run`: move what is asked for, in this process."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from headrace.cli.command import INTERRUPTED, TERMINATED
from headrace.cli.progress import STYLES, SUMMARY, Follower, run_json
from headrace.cli.request import Choice, Ends, Knobs, Order
from headrace.cli.screen import Screen, many
from headrace.control.access import OPERATOR
from headrace.model.run import ErrorReport, Run, RunStatus

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.engine.stop import Stop

_LOOK = 0.1  # seconds between two looks at what is new


def run(
    screen: Screen,
    ends: Ends,
    choice: Choice,
    knobs: Knobs,
    pipelines: Annotated[
        list[str] | None, Argument(help="Pipelines of headrace.yaml; all by default.")
    ] = None,
) -> int:
    """Move rows, and carry on where the last run stopped.

    \b
    headrace run --from postgresql://me@db/shop --to iceberg:./lake --stream public.orders
    headrace run --from './data/*.csv' --to parquet:./out
    headrace run --from shop --to lake -s 'public.*' --exclude public.audit --mode upsert --cursor updated_at
    headrace run nightly --output ndjson

    Put secrets into the environment: --from 'postgresql://me:${PGPASSWORD}@db/shop'.
    The first Ctrl-C ends the run at the next checkpoint, the second at once.
    """
    from headrace.cli.request import orders
    from headrace.cli.session import Session

    with Session(screen) as session:
        asked = orders(session, pipelines or [], ends, choice, knobs)
        shift = _Shift(session)
        with shift.signals():
            for order in asked:
                if not shift.signal:
                    shift.work(order)
        return shift.close()


class _Shift:
    """The runs of one command, one after the other, and the signals that end them."""

    def __init__(self, session: Session):
        self.session = session
        self.screen = session.screen
        self.signal = 0
        self.stop: Stop | None = None
        self.words: list[str] = []
        self.done: list[dict[str, Any]] = []
        self.codes: list[int] = []

    def work(self, order: Order) -> None:
        from headrace.control.outcome import exit_code
        from headrace.control.pipelines import job
        from headrace.engine.stop import Stop

        platform = self.session.platform
        pipeline = order.pipeline
        platform.pipelines.remember(OPERATOR, pipeline, order.source, order.target)
        ready = job(pipeline, order.source, order.target)
        self.stop = stop = Stop()
        follower = Follower(self.screen, pipeline.name)
        ended: list[Run | BaseException] = []

        def body() -> None:
            try:
                ended.append(platform.runs.run(OPERATOR, ready, stop, follower))
            except BaseException as error:
                ended.append(error)

        self.screen.say(f"{pipeline.name}: {order.source.connector} → {order.target.connector}")
        # In a thread of its own, so that signals find the main one free.
        worker = threading.Thread(target=body, name="run", daemon=True)
        worker.start()
        with follower:
            while worker.is_alive():
                worker.join(_LOOK)
                follower.show()
                while self.words:  # of the signal handler, which must not print in the midst of printing
                    self.screen.say(self.words.pop(0), style="yellow")
        (end,) = ended
        if isinstance(end, BaseException):
            self._failed(pipeline.name, end)
            return
        self.codes.append(exit_code(end))
        self._show(end, follower)

    def _show(self, run: Run, follower: Follower) -> None:

        shown = run_json(run, follower.tracks)
        self.done.append(shown)
        if self.screen.format == "ndjson":
            self.screen.event("run", shown)
        elif self.screen.format == "table" and run.streams:
            self.screen.table(shown["streams"], SUMMARY)
        if run.error:
            self.screen.complain(run.error, about=run.pipeline)
        for stream in run.streams:
            if stream.error:
                self.screen.complain(stream.error, about=stream.stream)
        if rejected := shown["rejected"]:
            self.screen.warn(
                f"rejected: {many(rejected, 'row')}; see them with: headrace rejects {run.pipeline}"
            )
        seconds = shown["seconds"] or 0.0
        words = f"{run.pipeline}: {run.status.value}, {many(shown['read'], 'row')} in {seconds:.1f} s"
        if run.status is RunStatus.CANCELLED:
            words += "; the same command carries on"
        self.screen.say(words, style=STYLES[run.status.value])
        self.screen.say(f"the log is in: headrace logs {run.id}", verbose=True)

    def _failed(self, pipeline: str, error: BaseException) -> None:
        from headrace.engine.retry import report

        if self.screen.debug:
            self.screen.trace("".join(traceback.format_exception(error)))
        shown = ErrorReport.of(report(error))
        self.codes.append(shown.exit_code)
        self.screen.complain(shown, about=pipeline)
        run = Run(id="", pipeline=pipeline, status=RunStatus.FAILED, queued_at=datetime.now(UTC), error=shown)
        self.done.append(run_json(run) | {"run": None})
        if self.screen.format == "ndjson":
            self.screen.event("run", self.done[-1])

    def close(self) -> int:
        """The last word, and the exit code of the whole."""
        from headrace.control.outcome import PARTIAL

        codes = set(self.codes)
        code = codes.pop() if len(codes) == 1 else PARTIAL if codes else INTERRUPTED
        if self.signal and code:
            code = self._by_signal()
        if self.screen.format == "json":
            self.screen.document({"exit_code": code, "runs": self.done})
        return code

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While it lasts, the first signal drains and the second aborts."""
        before = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: object) -> None:
        first = not self.signal
        self.signal = self.signal or number
        if self.stop is None:
            raise KeyboardInterrupt
        if self.stop.aborted:
            os._exit(self._by_signal())
        if first:
            self.stop.drain()
            self.words.append("stopping at the next checkpoint; once more (Ctrl-C) stops at once")
        else:
            self.stop.abort()
            self.words.append("stopping at once; what was not committed is read again next time")

    def _by_signal(self) -> int:
        return TERMINATED if self.signal == signal.SIGTERM else INTERRUPTED
