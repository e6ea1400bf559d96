"""When schedules ask for a run: cron expressions of five fields, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from croniter import croniter

from headrace.errors import ConfigError


def following(expression: str, after: datetime) -> datetime:
    """The first moment after `after`. Raises ConfigError (`schedule.invalid`)."""
    try:
        if len(expression.split()) != 5:
            raise ValueError("it has not five fields")
        if any(field.upper().startswith(("R", "H")) for field in expression.split()):
            raise ValueError("it asks for a moment by chance")
        found: datetime = croniter(expression, after.astimezone(UTC)).get_next(datetime)
    except (ValueError, KeyError) as error:  # what croniter raises are ValueErrors
        raise ConfigError(
            "schedule.invalid",
            f"{expression!r} is no schedule: {error}",
            field="schedule",
            remedy="Give minute, hour, day of month, month and day of week, such as 0 3 * * *.",
        ) from None
    return found
