"""The master keys under which all secrets of an installation are sealed."""

from __future__ import annotations

from headrace.control.access import Actor, Guarded, Permission, needs


class Keys(Guarded):
    @needs(Permission.ADMINISTER, changes=True)
    def rotate(self, actor: Actor) -> int:
        """Wrap every secret with the newest master key; gives how many were wrapped by an older one.

        Secrets stay readable throughout. Raises ConfigError, with nothing changed, when an older key that
        is still needed is not here.
        """
        return self._store.rotate()
