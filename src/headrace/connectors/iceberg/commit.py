"""Commits a change and a token in one step, again on conflict, and finds out what became of a lost reply."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Sequence

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import ancestors_of

from headrace.connector import Staged, Token
from headrace.connectors.iceberg.catalog import outcome_unknown, translate, translated
from headrace.connectors.iceberg.swap import Change, Swap, SwapTransaction, require_unmoved
from headrace.errors import OutcomeUnknown, StageLost, TransientError

ATTEMPTS = 25
FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
ANCESTORS = 100
PROPERTY = "headrace.token."
CLEARED = "headrace.cleared"


def commit(load: Callable[[], Table], plan: Callable[[Table], Change | None], token: Token | None) -> None:
    """Commit what `plan` says of the table as it is then; again on conflict, with a fresh look each time.

    A plan of None ends it. Maintenance has no token: it is no pipeline's publish.

    Raises Fenced by the token found in the table, OutcomeUnknown when the reply was lost and our commit
    cannot be seen, TransientError when others kept getting in between; nothing happened but in the second.
    """
    tried: Swap | None = None
    for attempt in range(ATTEMPTS):
        with translated("reading the table"):
            table = load()
        if tried is not None:
            if _landed(table, token, tried):
                return
            tried.clean()
        if token is not None and not token.supersedes(token_in(table, token.pipeline)):
            return
        with translated("planning the commit"):
            change = plan(table)
            if change is None:
                return
            transaction, tried = _prepare(table, change, token)
        try:
            transaction.commit_transaction()
            return
        except CommitFailedException:
            time.sleep(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5))
        except Exception as error:
            if outcome_unknown(error):
                _look(load, token, tried, error)
                return
            tried.clean()
            if ours := translate(error, "committing"):
                raise ours from error
            raise
    with translated("reading the table"):
        if tried is not None:
            if _landed(load(), token, tried):
                return
            tried.clean()
    raise TransientError(
        "iceberg.conflict",
        f"other writers changed the table during each of {ATTEMPTS} attempts to commit",
        remedy="Let fewer writers commit to the table at once, or commit less often.",
    )


def check_staged(table: Table, staged: Sequence[Staged]) -> None:
    """Raise StageLost if the table was replaced by another, or what was staged may have been cleared away."""
    if any(one.detail["table"] != str(table.metadata.table_uuid) for one in staged):
        raise StageLost(
            "iceberg.table_replaced",
            f"the table {'.'.join(table.name())} was dropped and made anew after rows had been staged for it",
            remedy="Nothing to do: the rows are read again.",
        )
    cleared = float(table.properties.get(CLEARED, 0))
    if any(one.detail.get("at", 0) < cleared for one in staged):
        raise StageLost(
            "iceberg.stage_cleared",
            f"rows staged for {'.'.join(table.name())} waited so long that they may have been cleared away",
            remedy="Nothing to do: the rows are read again. Let orphans grow older than the longest load.",
        )


def fence(load: Callable[[], Table], until: float) -> None:
    """Let no commit succeed, from now on, of files staged before `until`, in seconds since 1970.

    A snapshot that changes no row makes every commit that is under way look at the table again.
    """
    commit(load, lambda table: Change(rewrites=True, properties={CLEARED: str(until)}), None)


def tokens_said(table: Table) -> dict[str, str]:
    """The properties that pipelines need whose last token stands in a snapshot alone."""
    said = [s.summary.additional_properties for s in table.metadata.snapshots if s.summary]
    names = {found for one in said if (found := one.get("headrace.pipeline"))}
    missing = {name for name in names if not table.properties.get(PROPERTY + name)}
    tokens = {name: token_in(table, name) for name in missing}
    return {
        PROPERTY + name: json.dumps(token.to_json(), ensure_ascii=False)
        for name, token in tokens.items()
        if token
    }


def token_in(table: Table, pipeline: str) -> Token | None:
    """The pipeline's last token: the table's property, or what snapshots remember if somebody unset it."""
    if text := table.properties.get(PROPERTY + pipeline):
        return Token(**json.loads(text))
    for number, snapshot in enumerate(ancestors_of(table.current_snapshot(), table.metadata)):
        if number == ANCESTORS:
            break
        said = snapshot.summary.additional_properties if snapshot.summary else {}
        if said.get("headrace.pipeline") == pipeline:
            return Token(
                pipeline=pipeline,
                epoch=int(said["headrace.epoch"]),
                sequence=int(said["headrace.sequence"]),
                position=json.loads(said["headrace.position"]),
            )
    return None


def _prepare(table: Table, change: Change, token: Token | None) -> tuple[Transaction, Swap]:
    transaction = SwapTransaction(table)
    swap = Swap(transaction, change, _said(token) if token else {})
    try:
        swap.commit()
    except Exception:
        swap.clean()
        raise
    said = {PROPERTY + token.pipeline: json.dumps(token.to_json(), ensure_ascii=False)} if token else {}
    if said or change.properties:
        transaction.set_properties({**said, **change.properties})
    require_unmoved(transaction)
    # With producers registered, pyiceberg answers a conflict by rebasing and committing again, without
    # a look at our token; without any it raises at once.
    transaction._snapshot_producers.clear()
    return transaction, swap


def _said(token: Token) -> dict[str, str]:
    """The token as the snapshot's summary has it."""
    return {
        "headrace.pipeline": token.pipeline,
        "headrace.epoch": str(token.epoch),
        "headrace.sequence": str(token.sequence),
        "headrace.position": json.dumps(token.position, ensure_ascii=False, separators=(",", ":")),
    }


def _look(load: Callable[[], Table], token: Token | None, tried: Swap, error: Exception) -> None:
    """Return if our commit is there, else leave the question open: it may yet arrive."""
    landed = False
    with contextlib.suppress(Exception):
        landed = _landed(load(), token, tried)
    if not landed:
        raise OutcomeUnknown(
            "iceberg.commit_unknown",
            f"the reply to a commit was lost ({type(error).__name__})",
            remedy="Nothing to do: the table is looked at before anything is written again.",
        ) from error


def _landed(table: Table, token: Token | None, tried: Swap) -> bool:
    """Was this commit made, although its reply was lost or a conflict?

    A transport that repeats a request whose reply was lost makes a commit conflict with itself. The token
    outlives the snapshot, which may have expired.
    """
    last = token_in(table, token.pipeline) if token else None
    same = token and last and (last.epoch, last.sequence) == (token.epoch, token.sequence)
    return bool(same) or table.metadata.snapshot_by_id(tried.snapshot_id) is not None
