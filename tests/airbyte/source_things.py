"""A source of the Airbyte protocol over a file of JSON lines; packed into a wheel, it needs nothing else.

Its settings say where the file lies, and how to misbehave: `die_at` kills it after so many records, `hang_at`
lets it wait for ever there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SPECIFICATION = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["path", "credentials"],
    "properties": {
        "path": {"type": "string", "title": "Path", "description": "Where the file lies"},
        "every": {"type": "integer", "minimum": 1, "default": 100, "description": "Records for each state"},
        "state_type": {"type": "string", "enum": ["STREAM", "GLOBAL", "LEGACY", "none"], "default": "STREAM"},
        "status": {"type": "string"},
        "mode": {"type": "string", "default": "well"},
        "at": {"type": "integer", "default": -1},
        "once": {"type": "string", "description": "It misbehaves only while this file is not there."},
        "schema": {"type": "object", "description": "Members of the stream"},
        "credentials": {
            "type": "object",
            "oneOf": [
                {
                    "title": "Token",
                    "required": ["kind", "token"],
                    "properties": {
                        "kind": {"type": "string", "const": "token"},
                        "token": {"type": "string", "airbyte_secret": True},
                    },
                },
                {
                    "title": "Login",
                    "required": ["kind", "user", "password"],
                    "properties": {
                        "kind": {"type": "string", "const": "login"},
                        "user": {"type": "string"},
                        "password": {"type": "string", "airbyte_secret": True},
                    },
                },
            ],
        },
    },
}
THINGS = {
    "id": {"type": "integer"},
    "name": {"type": ["null", "string"]},
    "at": {"type": ["null", "string"], "format": "date-time", "airbyte_type": "timestamp_with_timezone"},
    "tags": {"type": ["null", "array"], "items": {"type": "string"}},
    "more": {"type": ["null", "object"]},
}


def say(type: str, **content: Any) -> None:
    sys.stdout.write(json.dumps({"type": type, **content}) + "\n")


def trace(error: str, failure_type: str) -> None:
    said = {"message": error, "failure_type": failure_type, "stack_trace": "here"}
    say("TRACE", trace={"type": "ERROR", "emitted_at": 1, "error": said})


def status(name: str, word: str, reason: str | None = None) -> None:
    told: dict[str, Any] = {"stream_descriptor": {"name": name}, "status": word}
    if reason:
        told["reasons"] = [{"type": reason}]
    say("TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 1.5, "stream_status": told})


def stream(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "json_schema": {"type": "object", "properties": config.get("schema") or THINGS},
        "supported_sync_modes": ["full_refresh", "incremental"] if name == "things" else ["full_refresh"],
        "source_defined_cursor": True,
        "default_cursor_field": ["id"],
        "source_defined_primary_key": [["id"]],
    }


def read(config: dict[str, Any], catalog: dict[str, Any], state: list[Any]) -> int:
    (chosen,) = catalog["streams"]
    name, incremental = chosen["stream"]["name"], chosen["sync_mode"] == "incremental"
    done = 0
    for one in state:
        inner = one.get("data") or one.get("stream", {}).get("stream_state") or one["global"]["shared_state"]
        done = inner["id"] if incremental else 0
    say("LOG", log={"level": "INFO", "message": f"after {done} in {chosen['destination_sync_mode']}"})
    sys.stderr.write("a line of stderr\n")
    status(name, "STARTED")
    if config.get("once") and Path(config["once"]).exists():
        config = {**config, "mode": "well", "at": -1}
    elif config.get("once") and config.get("at", -1) >= 0:
        Path(config["once"]).touch()
    count = 0
    with Path(config["path"]).open() as file:
        for line in file:
            row = json.loads(line)
            if name == "things" and row.get("id", 0) <= done:
                continue
            say("RECORD", record={"stream": name, "data": row, "emitted_at": 1_700_000_000_000})
            count += 1
            if count == config.get("at", -1):
                misbehave(config, name)
            if count % config.get("every", 100) == 0 and name == "things":
                give_state(config, name, row["id"])
    if name == "things" and count:
        give_state(config, name, row["id"])
    if config.get("mode") == "error in the end":
        trace("not all of it was read", "system_error")
    status(name, config.get("status") or "COMPLETE")
    return 0


def misbehave(config: dict[str, Any], name: str) -> None:
    sys.stdout.flush()
    match config["mode"]:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            Path(config["path"]).with_suffix(".hangs").touch()
            time.sleep(3600)
        case "exit":
            sys.stderr.write(f"no way with {config['credentials']}\n")
            sys.exit(7)
        case "config" | "transient" | "system":
            trace(f"it went wrong with {config['credentials']['token']}", f"{config['mode']}_error")
            sys.exit(1)
        case "foreign":
            say("RECORD", record={"stream": "other", "data": {}, "emitted_at": 1})
        case "renew":
            changed = {**config, "credentials": {"kind": "token", "token": "canary-second"}, "unknown": 1}
            inner = {"config": changed}
            say("CONTROL", control={"type": "CONNECTOR_CONFIG", "emitted_at": 1, "connectorConfig": inner})
            say("LOG", log={"level": "INFO", "message": "now with canary-second"})


def give_state(config: dict[str, Any], name: str, id: int) -> None:
    inner = {"id": id, "exactly": 1.10}
    about = {"name": name}
    match config.get("state_type", "STREAM"):
        case "STREAM":
            state = {"type": "STREAM", "stream": {"stream_descriptor": about, "stream_state": inner}}
        case "GLOBAL":
            state = {"type": "GLOBAL", "global": {"shared_state": inner, "stream_states": []}}
        case "LEGACY":
            state = {"type": "LEGACY", "data": inner}
        case _:
            return
    say("STATE", state=state)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    for option in ("--config", "--catalog", "--state"):
        parser.add_argument(option, type=Path)
    asked = parser.parse_args()
    if asked.verb == "spec":
        sys.stdout.write("this line is no message\n")
        say(
            "SPEC", spec={"connectionSpecification": SPECIFICATION, "documentationUrl": "https://example.com"}
        )
        return
    config = json.loads(asked.config.read_text())
    match asked.verb:
        case "check":
            there = Path(config["path"]).exists()
            told = (
                {"status": "SUCCEEDED"} if there else {"status": "FAILED", "message": f"no {config['path']}"}
            )
            say("CONNECTION_STATUS", connectionStatus=told)
        case "discover":
            say("CATALOG", catalog={"streams": [stream("things", config), stream("whole", config)]})
        case "read":
            state = json.loads(asked.state.read_text()) if asked.state else []
            sys.exit(read(config, json.loads(asked.catalog.read_text()), state))
