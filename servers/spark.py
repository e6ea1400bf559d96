"""Spark with the Iceberg runtime, in a JVM of its own that reads and writes the tables of a folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from servers.started import Started

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Spark fetches these from Maven Central and keeps them in FOLDER.
PACKAGES = (
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0",
    "org.xerial:sqlite-jdbc:3.50.3.0",
)
FOLDER = Path(__file__).parent.parent / ".spark"
JAVA_AT_LEAST = 17
CATALOG = "`default`"
"""What the SQLite catalogue of a folder is called in SQL; its tables are listed under this very name."""


class SparkServer(Started):
    """Started by `with`. `session` gives one that knows the lake in a folder, and nothing of others."""

    def _start(self, undo: contextlib.ExitStack) -> None:
        _require_java()
        try:
            from pyspark.sql import SparkSession
        except ModuleNotFoundError:
            raise RuntimeError("pyspark is not there: run `make spark`, which fetches it") from None
        settings = {
            "spark.jars.packages": ",".join(PACKAGES),
            "spark.jars.ivy": str(FOLDER / "ivy"),
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(FOLDER / "warehouse"),
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }
        builder = SparkSession.builder.master("local[2]").appName("headrace")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self._spark = builder.getOrCreate()
        undo.callback(self._end)

    def session(self, warehouse: Path) -> SparkSession:
        """A session whose catalogue `default` is the SQLite file in the folder `warehouse`."""
        session = self._spark.newSession()
        at = f"spark.sql.catalog.{CATALOG.strip('`')}"
        for name, value in {
            at: "org.apache.iceberg.spark.SparkCatalog",
            f"{at}.type": "jdbc",
            f"{at}.uri": f"jdbc:sqlite:{warehouse / 'catalog.db'}",
            f"{at}.jdbc.schema-version": "V1",
            f"{at}.warehouse": f"file://{warehouse}",
            f"{at}.cache-enabled": "false",
        }.items():
            session.conf.set(name, value)
        return session

    def _end(self) -> None:
        gateway = self._spark.sparkContext._gateway
        self._spark.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # what the JVM waits for before it ends
        gateway.proc.wait()


def _require_java() -> None:
    """Raise RuntimeError, with what to do, unless there is a Java that Spark runs on."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    remedy = f"install Java {JAVA_AT_LEAST} (Debian, Ubuntu: openjdk-17-jre-headless) or set JAVA_HOME"
    if java is None:
        raise RuntimeError(f"there is no Java: {remedy}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < JAVA_AT_LEAST:
        raise RuntimeError(f"{java} is {version[0] if version else 'no Java'}: {remedy}")
