"""Kafka, which is described and neither read nor written yet."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from headrace.connector import Capability, Config, ConnectorSpec, Maturity, Secret, setting


class SchemaRegistry(Config):
    """The registry that holds the schemas of messages."""

    url: str = setting("Address of the registry.", pattern="^https?://")
    username: str | None = setting("The user to log in as.", default=None)
    password: Secret | None = setting("The password of the user.", default=None)


class KafkaConfig(Config):
    """How to reach a cluster, as a source and as a target."""

    bootstrap_servers: tuple[str, ...] = setting(
        "Brokers to ask first, each as host:port.", min_length=1, examples=[["broker1:9092"]]
    )
    topics: tuple[str, ...] = setting("Source: the topics to read, each a stream.", default=())
    topic_pattern: str | None = setting(
        "Source: a regular expression for the topics to read, in place of topics.", default=None, min_length=1
    )
    consumer_group_id: str | None = setting(
        "Source: the group under which the brokers show how far we are.", default=None, min_length=1
    )
    start_from: Literal["earliest", "latest"] = setting(
        "Source: where a topic is begun that was never read.", default="earliest"
    )
    include_metadata: bool = setting(
        "Source: add topic, partition, offset, time and headers as columns.", default=False
    )
    topic_template: str = setting(
        "Target: the topic of a stream, with {stream} for its name.", default="{stream}", min_length=1
    )
    key_fields: tuple[str, ...] = setting(
        "Target: the columns that make a message's key; the stream's key by default.", default=()
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = setting(
        "Target: compression of the messages.", default="zstd"
    )
    value_format: Literal["json", "avro", "protobuf", "text", "bytes"] = setting(
        "How the values of messages are written.", default="json"
    )
    schema_registry: SchemaRegistry | None = setting(
        "The registry that holds the schemas of messages.", default=None
    )
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = setting(
        "Whether the connection is encrypted, and we log in.", default="plaintext"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = setting(
        "How we log in.", default=None
    )
    sasl_username: str | None = setting("The user to log in as.", default=None)
    sasl_password: Secret | None = setting("The password of the user.", default=None)
    ca_cert: str | None = setting(
        "The certificates of the authorities to trust, as PEM text.", default=None, advanced=True
    )
    client_cert: str | None = setting("The client's certificate, as PEM text.", default=None, advanced=True)
    client_key: Secret | None = setting(
        "The key of the client's certificate, as PEM text.", default=None, advanced=True
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.topics and self.topic_pattern:
            raise ValueError("give either topics or topic_pattern")
        if self.security_protocol.startswith("sasl") != (self.sasl_mechanism is not None):
            raise ValueError("sasl_mechanism belongs to the sasl protocols, and to no other")
        return self


KAFKA = ConnectorSpec(
    name="kafka",
    title="Kafka",
    version="0",
    config=KafkaConfig,
    capabilities=frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.APPEND, Capability.UPSERT}),
    maturity=Maturity.PLANNED,
    category="stream",
    icon="kafka",
    unavailable="The reader and the writer of its topics are missing.",
)
