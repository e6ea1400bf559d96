"""An object store as a storage, against a server that checks keys and signatures."""

import pytest

from headrace.connector.files import Storage, StorageConfig, open_storage
from headrace.errors import AuthError, ConfigError, NotFoundError, TransientError
from servers.s3 import S3Server


@pytest.fixture
def store(s3_server: S3Server, s3_bucket: str) -> Storage:
    return open_storage(f"s3://{s3_bucket}/some/prefix", StorageConfig.parse({"s3": s3_server.access()}))


def test_only_one_writer_creates_a_key(store: Storage) -> None:
    assert store.put_if_absent("m/1.json", b"first")
    assert not store.put_if_absent("m/1.json", b"second")
    assert store.read("m/1.json") == b"first"


def test_a_large_object_is_uploaded_and_read_in_parts(store: Storage) -> None:
    content = bytes(range(256)) * (80 << 10)
    with store.create("big.bin") as upload:
        for start in range(0, len(content), 3 << 20):
            upload.write(content[start : start + (3 << 20)])
    with store.open(store.stat("big.bin")) as file:
        assert file.read() == content
        file.seek(-300, 2)
        assert file.read(10) == content[-300:-290]
        file.seek(9 << 20)
        assert file.read(10) == content[9 << 20 : (9 << 20) + 10]


def test_an_upload_that_fails_leaves_no_object(store: Storage) -> None:
    with pytest.raises(ValueError, match="stop"), store.create("broken") as upload:
        upload.write(b"x" * (9 << 20))
        raise ValueError("stop")
    assert list(store.list()) == []


def test_listing_is_relative_to_the_prefix_and_globs_work(store: Storage) -> None:
    for key in ["a.csv", "x/b.csv", "x/y/c.csv", "_log/d.csv"]:
        store.put(key, b"1")
    assert [o.key for o in store.list(deep=False)] == ["a.csv"]
    assert [o.key for o in store.glob("x/*.csv")] == ["x/b.csv"]
    assert [o.key for o in store.glob("**/*.csv")] == ["a.csv", "x/b.csv", "x/y/c.csv"]
    store.delete(["a.csv", "never"])
    assert not store.exists("a.csv")


def test_an_object_that_changed_since_it_was_listed_is_not_read(store: Storage) -> None:
    store.put("a", b"one")
    listed = store.stat("a")
    store.put("a", b"two")
    with pytest.raises(TransientError) as caught:
        store.open(listed).read()
    assert caught.value.code == "storage.changed"


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_keys_are_an_auth_error_that_shows_no_secret(
    s3_server: S3Server, s3_bucket: str, wrong: str
) -> None:
    access = {**s3_server.access(), wrong: "canary-value"}
    store = open_storage(f"s3://{s3_bucket}", StorageConfig.parse({"s3": access}))
    for use in (
        lambda: list(store.list()),
        lambda: store.put("k", b""),
        lambda: store.put_if_absent("k", b""),
    ):
        with pytest.raises(AuthError) as caught:
            use()
        assert caught.value.field == "s3"
        assert "canary" not in f"{caught.value.as_dict()}{store!r}{vars(store)}"


def test_the_environment_lends_no_credentials_and_no_endpoint(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "foreign")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = open_storage(f"s3://{s3_bucket}", StorageConfig.parse({"s3": s3_server.access()}))
    store.put("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    bare = {"endpoint": s3_server.endpoint}
    anonymous = open_storage(f"s3://{s3_bucket}", StorageConfig.parse({"s3": bare}))
    with pytest.raises((AuthError, TransientError)):  # the server answers unsigned requests with 500
        anonymous.read("a")
    bare["ambient_credentials"] = True
    assert open_storage(f"s3://{s3_bucket}", StorageConfig.parse({"s3": bare})).read("a") == b"1"


def test_a_missing_bucket_is_not_found_and_half_a_key_is_refused(s3_server: S3Server) -> None:
    with pytest.raises(NotFoundError):
        list(open_storage("s3://no-such-bucket", StorageConfig.parse({"s3": s3_server.access()})).list())
    with pytest.raises(ConfigError):
        open_storage("s3://bucket", StorageConfig.parse({"s3": {"access_key_id": "a"}}))
