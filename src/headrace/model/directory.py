"""Everybody and every place of an installation, as one value to carry away and to bring back."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.user import User
from headrace.model.workspace import Membership, Team, TeamMember, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """No password and no token is in it. Ids of memberships, and their addresses, count for nothing."""

    users: tuple[User, ...] = ()
    workspaces: tuple[Workspace, ...] = ()
    teams: tuple[Team, ...] = ()
    members: tuple[Membership, ...] = ()
    team_members: tuple[TeamMember, ...] = ()
