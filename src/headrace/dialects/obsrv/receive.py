"""What comes with a request: a JSON body, the one file of a form, and who sends it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from headrace.control.access import Actor
from headrace.dialects.door import Door
from headrace.dialects.obsrv import errors
from headrace.dialects.obsrv.errors import Refused, route_id
from headrace.dialects.obsrv.translate import is_token
from headrace.dialects.obsrv.wire import Failure
from headrace.errors import ConfigError, SignInNeeded

BODY_BYTES = 1 << 20
UPLOAD_BYTES = 200 << 20
_FIELDS, _FIELD_BYTES = 100, 64 << 10
_FRAMES = 1 << 20  # of a form, around its file


async def json_body(request: Request) -> Any:
    """The body; `{}` when there is none, or one of another kind. Raises Refused."""
    if _content_type(request) != "application/json":
        return {}
    text = b"".join([part async for part in _bounded(request, BODY_BYTES)])
    if not text.strip():
        return {}
    try:
        body = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it can't be read"
        raise Refused(errors.not_json(f"The body is not JSON: {reason}")) from None
    if not isinstance(body, dict | list):
        raise Refused(errors.not_json("The body is not JSON: neither an object nor an array"))
    return body


@asynccontextmanager
async def upload(request: Request) -> AsyncIterator[tuple[str, UploadFile]]:
    """The one file of a form, with its name; it lives as long as the block. Raises Refused, ConfigError."""
    if _content_type(request) != "multipart/form-data":
        raise Refused(_not_multipart(request))
    stream = _bounded(request, UPLOAD_BYTES + _FRAMES)
    try:
        parser = MultiPartParser(request.headers, stream, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
        form = await parser.parse()
    except (MultiPartException, UnicodeError):
        raise Refused(_not_multipart(request)) from None
    try:
        files = [file for _, file in form.multi_items() if isinstance(file, UploadFile) and file.filename]
        if len(files) > 1:
            raise Refused(errors.several_files())
        if not files:
            raise ConfigError("registry.no_file", "no file came with the form", remedy="Send one file.")
        yield _name(files[0].filename or ""), files[0]
    finally:
        await form.close()


async def caller(door: Door, request: Request) -> Actor | None:
    """Who the token of a request belongs to, if it has one. Raises Refused for one that is no good."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = {bearer.strip() if scheme.lower() == "bearer" else "", request.headers.get("x-user-token", "")}
    tokens = given - {""}
    if not tokens:
        return None
    id = route_id(request.url.path)
    if len(tokens) > 1:
        raise Refused(errors.not_in(id, "Token verification error"))
    (token,) = tokens
    try:
        return await door.ask(door.platform.sessions.authenticate, token)
    except SignInNeeded:
        words = "Token verification error" if is_token(token) else "Token decode error"
        raise Refused(errors.not_in(id, words)) from None


async def _bounded(request: Request, bound: int) -> AsyncGenerator[bytes, None]:
    size = int(request.headers.get("content-length") or 0)
    if size > bound:
        raise Refused(errors.too_large())
    left = bound
    async for part in request.stream():
        left -= len(part)
        if left < 0:
            raise Refused(errors.too_large())
        yield part


def _not_multipart(request: Request) -> Failure:
    return errors.not_multipart(strict=request.app.state.strict)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _name(given: str) -> str:
    """The name of a file without its folders, and without what does not belong into a name."""
    name = PurePosixPath(given.replace("\\", "/")).name
    return re.sub(r"[^\w.+ -]", "_", name, flags=re.ASCII)[-200:]


def _no_json(text: str) -> Any:
    raise ValueError(text)
