"""A throw-away S3: moto's server on a loopback port, which checks keys and signatures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from typing import Any

import boto3

from servers.port import reserved_port
from servers.started import Started

_ALL_OF_S3 = json.dumps(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
)


class S3Server(Started):
    """Started by `with`; only `access_key` with `secret_key` may do anything. All is kept in memory."""

    region = "us-east-1"

    def _start(self, undo: contextlib.ExitStack) -> None:
        self.port = undo.enter_context(reserved_port())
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"},  # the three that make the user
        )
        undo.callback(self._process.wait)
        undo.callback(self._process.kill)
        self._wait_ready()
        iam = self._client("iam", "nobody", "nothing")
        iam.create_user(UserName="headrace")
        iam.put_user_policy(UserName="headrace", PolicyName="s3", PolicyDocument=_ALL_OF_S3)
        key = iam.create_access_key(UserName="headrace")["AccessKey"]
        self.access_key, self.secret_key = key["AccessKeyId"], key["SecretAccessKey"]
        self.client = self._client("s3", self.access_key, self.secret_key)

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket; gives its name back."""
        self.client.create_bucket(Bucket=name)
        return name

    def access(self) -> dict[str, Any]:
        """The settings under `s3` of a connector that may use this server."""
        return {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def _client(self, service: str, key: str, secret: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 300  # vast: a machine may be slow
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/data.json", timeout=60).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the S3 server did not start") from None
                time.sleep(0.05)
