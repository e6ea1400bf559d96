"""The main job, shown on a throw-away PostgreSQL: `python -m demo`."""
