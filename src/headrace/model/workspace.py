"""Who sees what: workspaces, their members with roles, and teams inside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

LOCAL = "00000000-0000-4000-8000-000000000001"
"""The workspace of this machine's own command line, named `local`; every store has it."""


class Role(StrEnum):
    """What a member may do in a workspace; each role may do all that those after it may."""

    OWNER = "owner"  # members, teams and the workspace itself as well
    MEMBER = "member"  # makes, changes and runs
    VIEWER = "viewer"  # looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Every connection, pipeline, run and team belongs to one."""

    id: str
    name: str
    description: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user in a workspace; `email` is the user's, for people to read."""

    id: str
    workspace: str
    user: str
    email: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Members of a workspace who own connections and pipelines together."""

    id: str
    workspace: str
    name: str
    description: str = ""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamMember:
    """A user in a team; `owner` may change the team and who is in it."""

    id: str
    team: str
    user: str
    email: str
    owner: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An offer to join a workspace, to whoever reads the mail of that address."""

    id: str
    workspace: str
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime
