"""Files on an SFTP server, which are described and not read yet."""

from __future__ import annotations

from headrace.connector import Capability, ConnectorSpec, Maturity, setting
from headrace.connector.files.options import FileFormat
from headrace.connector.network import Ssh


class SftpConfig(Ssh):
    """Where the files are, and how to log in; the server's key must be known beforehand."""

    host: str = setting("The SFTP server.")
    username: str = setting("The user to log in as.", min_length=1)
    folder: str = setting("The folder on the server to look in.", default="/", min_length=1)
    globs: dict[str, str] | tuple[str, ...] = setting(
        "Which files below folder are read, each pattern a stream: a map gives the names, in a list the "
        "patterns do. Empty is one stream of all data files.",
        default=(),
        examples=[{"orders": "orders-*.csv"}],
    )
    format: FileFormat = setting("How the files are written.", default=FileFormat())


SFTP = ConnectorSpec(
    name="sftp-bulk",
    title="SFTP",
    version="0",
    config=SftpConfig,
    capabilities=frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.RESUME}),
    maturity=Maturity.PLANNED,
    category="files",
    icon="sftp",
    unavailable="The way to files over SFTP is missing.",
)
