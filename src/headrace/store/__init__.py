"""What we remember: tables, their migrations, and secrets under seal."""

from headrace.store.leases import Lease
from headrace.store.page import Page
from headrace.store.positions import DeadLetter, SliceCheckpoint
from headrace.store.runs import PastAttempt
from headrace.store.secrets import MasterKeys
from headrace.store.store import Store

__all__ = ["DeadLetter", "Lease", "MasterKeys", "Page", "PastAttempt", "SliceCheckpoint", "Store"]
