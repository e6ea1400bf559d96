"""A connector that means harm, in one way for each `act`; its `spec` behaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SPECIFICATION = {
    "type": "object",
    "required": ["act"],
    "properties": {
        "act": {"type": "string", "description": "What it does"},
        "folder": {"type": "string", "description": "Where it leaves marks"},
        "secret": {"type": "string", "airbyte_secret": True, "description": "What it wants to get out"},
    },
}


def say(type: str, **content: Any) -> None:
    sys.stdout.write(json.dumps({"type": type, **content}) + "\n")
    sys.stdout.flush()


def record(id: int, **more: Any) -> None:
    say("RECORD", record={"stream": "loot", "data": {"id": id, **more}, "emitted_at": 1})


def environments() -> str:
    """Whatever it can read of the processes above it, and of itself."""
    found = [json.dumps(dict(os.environ))]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((process / "environ").read_text(errors="replace"))
    return "\n".join(found)


def act(config: dict[str, Any]) -> None:  # noqa: PLR0915 - a list of crimes
    match config["act"]:
        case "environment":
            Path(config["folder"], "seen").write_text(environments())
        case "fork":
            while True:
                os.fork()
        case "fork away":
            while True:
                with contextlib.suppress(OSError):
                    os.fork()
                if os.getpid() != os.getpgrp():
                    os.setsid()
        case "leave":
            subprocess.Popen(["sleep", "100000"], start_new_session=True)
            record(1)
        case "memory":
            hoard = []
            while True:
                hoard.append(bytearray(8 << 20))
        case "memory of many":
            for _ in range(8):
                if not os.fork():
                    break
            hoard = [bytearray(os.urandom(1 << 20)) * 24]
            time.sleep(3600)
        case "file":
            with Path("large").open("wb") as file:
                while True:
                    file.write(bytes(1 << 20))
        case "disk":
            for number in range(100_000):
                Path(str(number)).write_bytes(b"x" * (1 << 20))
        case "line":
            while True:
                sys.stdout.write("x" * (1 << 20))
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path(config["folder"], "stubborn").touch()
            while True:
                time.sleep(1)
        case "secrets":
            import base64
            from urllib.parse import quote

            secret = config["secret"]
            encoded = base64.b64encode(f"user:{secret}".encode()).decode()
            for text in (secret, quote(secret, safe=""), encoded, json.dumps(secret), f"a\x1b[2J\r{secret}"):
                say("LOG", log={"level": "INFO", "message": f"here: {text}"})
                sys.stderr.write(f"here: {text}\n")
                sys.stdout.write(f"here: {text}\n")
            say("TRACE", trace={"type": "ERROR", "error": {"message": secret, "stack_trace": secret}})
        case "state first":
            state = {
                "type": "STREAM",
                "stream": {"stream_descriptor": {"name": "loot"}, "stream_state": {"n": 2}},
            }
            say("STATE", state=state)
            record(1)
            record(2)
            os.kill(os.getpid(), signal.SIGKILL)
        case "flood":
            for number in range(30_000):
                sys.stderr.write(f"line {number}\n")
            record(1)
        case "junk":
            for junk in ("", "null", "[]", "{}", '{"type": "RECORD"}', '{"type": []}', "{" * 5000, "\udcff"):
                os.write(1, junk.encode("utf-8", "surrogateescape") + b"\n")


def main() -> None:
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    match sys.argv[1]:
        case "spec":
            say("SPEC", spec={"connectionSpecification": SPECIFICATION})
        case "check":
            act(json.loads(Path(options["--config"]).read_text()))
        case "discover":
            properties = {"id": {"type": "integer"}, "text": {"type": "string"}}
            stream = {
                "name": "loot",
                "json_schema": {"properties": properties},
                "supported_sync_modes": ["full_refresh", "incremental"],
                "source_defined_cursor": True,
            }
            say("CATALOG", catalog={"streams": [stream]})
        case "read":
            act(json.loads(Path(options["--config"]).read_text()))
