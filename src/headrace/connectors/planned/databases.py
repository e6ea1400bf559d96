"""Databases that are described and not read yet."""

from __future__ import annotations

import warnings
from typing import Literal, Self

from pydantic import field_validator, model_validator

from headrace.connector import Capability, Config, ConnectorSpec, Maturity, Secret, setting
from headrace.connector.network import Ssh, Tls, one_host

_READS = frozenset(
    {Capability.FULL, Capability.INCREMENTAL, Capability.CHANGES, Capability.FILTER, Capability.RESUME}
)


class _Server(Config):
    host: str = setting("The name or address of the server.")

    @field_validator("host")
    @classmethod
    def _one_host(cls, value: str) -> str:
        return one_host(value)


class MysqlConfig(_Server):
    """How to reach one database of MySQL or MariaDB."""

    port: int = setting("The port of the server.", default=3306, ge=1, le=65535)
    database: str = setting("The database to read.", min_length=1)
    username: str = setting("The user to log in as.", min_length=1)
    password: Secret | None = setting("The password of the user.", default=None)
    ssl_mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = setting(
        "Whether the connection is encrypted and the server's certificate checked.", default="prefer"
    )
    ssl: Tls = setting("Certificates and keys, as PEM text.", default=Tls(), advanced=True)
    ssh: Ssh | None = setting("An SSH server to go through.", default=None, advanced=True)
    server_id: int | None = setting(
        "The number under which changes are read, of which no other replica may have the same.",
        default=None,
        ge=1,
        le=2**32 - 1,
        advanced=True,
    )


class MongodbConfig(Config):
    """How to reach one database of a replica set."""

    connection_string: Secret | None = setting(
        "The address that the server's own tools take, in place of hosts and what belongs to them.",
        default=None,
    )
    hosts: tuple[str, ...] = setting(
        "The members of the replica set, each as host or host:port.", default=(), examples=[["db1:27017"]]
    )
    replica_set: str | None = setting("The name of the replica set.", default=None)
    database: str = setting("The database to read.", min_length=1)
    username: str | None = setting("The user to log in as.", default=None)
    password: Secret | None = setting("The password of the user.", default=None)
    auth_source: str = setting("The database that knows the user.", default="admin", min_length=1)
    tls: bool = setting("Encrypt the connection, and check the server's certificate.", default=False)
    schema_sample: int = setting(
        "How many documents of a collection are looked into for its fields.",
        default=1000,
        ge=1,
        le=1_000_000,
        advanced=True,
    )

    @field_validator("connection_string")
    @classmethod
    def _scheme(cls, value: Secret | None) -> Secret | None:
        if value and not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must start with mongodb:// or mongodb+srv://")
        return value

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.connection_string is None) == (not self.hosts):
            raise ValueError("needs either connection_string or hosts")
        return self


class MssqlConfig(_Server):
    """How to reach one database of SQL Server."""

    port: int = setting("The port of the server.", default=1433, ge=1, le=65535)
    database: str = setting("The database to read.", min_length=1)
    schemas: tuple[str, ...] = setting(
        "The schemas to look for tables in. Empty means all that the user may read.", default=()
    )
    username: str = setting("The login.", min_length=1)
    password: Secret = setting("The password of the login.")
    encrypt: bool = setting("Encrypt the connection.", default=True)
    trust_server_certificate: bool = setting(
        "Take whatever certificate the server shows, which protects from no man in the middle.", default=False
    )


class Wallet(Config):
    """A wallet's certificates and key."""

    pem: Secret = setting("The content of ewallet.pem.")
    password: Secret | None = setting("The password of the wallet.", default=None)


with warnings.catch_warnings():
    # "schema" is the user's word for it; what it hides is BaseModel.schema, which pydantic has retired
    warnings.simplefilter("ignore", UserWarning)

    class OracleConfig(_Server):
        """How to reach one Oracle database, as a source and as a target."""

        port: int = setting("The port of the listener.", default=1521, ge=1, le=65535)
        service_name: str | None = setting("The service to connect to.", default=None, min_length=1)
        sid: str | None = setting(
            "The instance to connect to, in place of a service.", default=None, min_length=1
        )
        schemas: tuple[str, ...] = setting(
            "Source: the schemas to look for tables in. Empty means all that the user may read.", default=()
        )
        schema: str | None = setting(  # type: ignore[assignment]
            "Target: the schema of the tables; the user's own by default.", default=None, min_length=1
        )
        username: str = setting("The user to log in as.", min_length=1)
        password: Secret = setting("The password of the user.")
        encryption: Literal["none", "tls"] = setting("How the connection is encrypted.", default="none")
        wallet: Wallet | None = setting("Certificates and key for tls.", default=None, advanced=True)

        @model_validator(mode="after")
        def _one_database(self) -> Self:
            if (self.service_name is None) == (self.sid is None):
                raise ValueError("needs either service_name or sid")
            return self


MYSQL = ConnectorSpec(
    name="mysql",
    title="MySQL and MariaDB",
    version="0",
    config=MysqlConfig,
    capabilities=_READS,
    maturity=Maturity.PLANNED,
    icon="mysql",
    unavailable="The reader of its tables and of its binary log is missing.",
)

MONGODB = ConnectorSpec(
    name="mongodb",
    title="MongoDB",
    version="0",
    config=MongodbConfig,
    capabilities=_READS,
    maturity=Maturity.PLANNED,
    icon="mongodb",
    unavailable="The reader of its collections and change streams is missing.",
)

MSSQL = ConnectorSpec(
    name="mssql",
    title="SQL Server",
    version="0",
    config=MssqlConfig,
    capabilities=_READS,
    maturity=Maturity.PLANNED,
    icon="mssql",
    unavailable="The reader of its tables and change tables is missing.",
)

ORACLE = ConnectorSpec(
    name="oracle",
    title="Oracle Database",
    version="0",
    config=OracleConfig,
    capabilities=_READS | {Capability.APPEND, Capability.UPSERT},
    maturity=Maturity.PLANNED,
    icon="oracle",
    unavailable="The reader and the writer of its tables are missing.",
)
