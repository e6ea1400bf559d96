"""The settings of one bucket as a source of its own, in the words of its store."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from headrace.connector import Config, Secret, setting
from headrace.connector.files.options import FileFormat
from headrace.connector.files.storage import WILD, AzureAccess, GcsAccess, S3Access
from headrace.connectors.files.config import FilesConfig, Reading, stream_name

_NAME = r"^[$A-Za-z0-9][A-Za-z0-9._-]*$"
_AMBIENT = "Take credentials from the environment or the machine's role when none are given here."


class BucketConfig(Reading):
    """What the stores have in common. A subclass tells where the bucket is, and who may read it."""

    scheme: ClassVar[str]
    bucket_field: ClassVar[str] = "bucket"
    credential_field: ClassVar[str]

    prefix: str = setting(
        "The folder in it to look in; all of it by default.", default="", examples=["events/2026"]
    )
    globs: dict[str, str] | tuple[str, ...] = setting(
        "Which files below prefix are read. Each pattern is a stream: a map gives the names, in a list the "
        "patterns do. Empty is one stream of all data files. * and ? stay within a folder, ** crosses "
        "folders.",
        default=(),
        examples=[{"orders": "orders-*.csv"}, ["orders-*.csv", "crm/*.jsonl"]],
    )
    format: FileFormat = setting("How the files are written.", default=FileFormat())

    @field_validator("prefix")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if WILD.search(value) or ".." in value.split("/"):
            raise ValueError("is one folder; patterns go into globs")
        return value.strip("/")

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [*self.globs] if isinstance(self.globs, dict) else [self._name(p) for p in self.globs]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise ValueError(f"globs: two patterns make the stream {twice[0]!r}; give a map of names")
        if "" in names:
            raise ValueError("globs: a stream has no name")
        return self

    @property
    @abstractmethod
    def access(self) -> Mapping[str, Config]:
        """The section of `FilesConfig` that says who reads."""

    def files(self) -> FilesConfig:
        """The same in the settings of the files source."""
        globs = self.globs if isinstance(self.globs, dict) else {self._name(p): p for p in self.globs}
        return FilesConfig.parse(
            {
                **self.model_dump(include=set(Reading.model_fields)),
                **self.access,
                "url": self._folder,
                "streams": globs,
                "format": self.format.type,
                "csv": self.format.csv,
            }
        )

    def field_of(self, code: str, field: str | None) -> str | None:
        """Our name of the setting that an error of the files source means."""
        match code:
            case "storage.not_found":
                return self.bucket_field
            case "storage.denied" | "storage.settings":
                return self.credential_field
            case "storage.refused" | "storage.unreachable":
                return "endpoint"
        if code.startswith("egress."):
            return "endpoint"
        if field in ("url", "streams"):
            return "globs"
        if field == "encoding":
            return "format.encoding"
        return field.rpartition(".")[2] if field else None

    @property
    def _folder(self) -> str:
        return f"{self.scheme}://{getattr(self, self.bucket_field)}/{self.prefix}{'/' if self.prefix else ''}"

    def _name(self, pattern: str) -> str:
        return stream_name(self._folder, pattern)


class _Bucket(Config):
    bucket: str = setting("The bucket.", pattern=_NAME)


class S3Config(BucketConfig, S3Access, _Bucket):
    """A bucket of S3, or of a store that speaks its protocol."""

    scheme = "s3"
    credential_field = "access_key_id"

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together")
        return self

    @property
    def access(self) -> Mapping[str, Config]:
        return {"s3": S3Access.parse(self.model_dump(include=set(S3Access.model_fields)))}


class _GcsBucket(_Bucket):
    service_account_json: Secret | None = setting("The service account's key, as JSON text.", default=None)
    endpoint: str | None = setting(
        "Address of an emulator.", default=None, advanced=True, pattern="^https?://"
    )
    ambient_credentials: bool = setting(_AMBIENT, default=False)


class GcsConfig(BucketConfig, _GcsBucket):
    """A bucket of Google Cloud Storage."""

    scheme = "gs"
    credential_field = "service_account_json"

    @property
    def access(self) -> Mapping[str, Config]:
        return {
            "gcs": GcsAccess(
                service_account_key=self.service_account_json,
                endpoint=self.endpoint,
                ambient_credentials=self.ambient_credentials,
            )
        }


class _AzureContainer(Config):
    account: str = setting("The storage account.", pattern="^[a-z0-9-]{3,63}$")
    container: str = setting("The container.", pattern=_NAME)
    account_key: Secret | None = setting("Key of the storage account.", default=None)
    sas_token: Secret | None = setting("Shared access signature, in place of the key.", default=None)
    endpoint: str | None = setting(
        "Address of an emulator.", default=None, advanced=True, pattern="^https?://"
    )
    ambient_credentials: bool = setting(_AMBIENT, default=False)


class AzureConfig(BucketConfig, _AzureContainer):
    """A container of Azure Blob Storage."""

    scheme = "az"
    bucket_field = "container"
    credential_field = "account_key"

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.account_key is not None and self.sas_token is not None:
            raise ValueError("give either account_key or sas_token")
        return self

    @property
    def access(self) -> Mapping[str, Config]:
        return {
            "azure": AzureAccess(
                account=self.account,
                access_key=self.account_key,
                sas_token=self.sas_token,
                endpoint=self.endpoint,
                ambient_credentials=self.ambient_credentials,
            )
        }
