"""Local folders as a storage: atomic writes, patterns, and no way out of the root."""

from pathlib import Path

import pytest

from headrace.connector.files import StorageConfig, open_storage, split_url
from headrace.errors import ConfigError, NotFoundError, TransientError


def storage(folder: Path, **settings: object):
    return open_storage(str(folder), StorageConfig.parse(settings))


def test_an_upload_is_seen_only_once_finished(tmp_path: Path) -> None:
    store = storage(tmp_path)
    upload = store.create("a/b.bin")
    upload.write(b"half")
    assert list(store.list()) == []
    assert [Path(o.key).parent.name for o in store.unfinished()] == ["a"]
    upload.finish()
    assert list(store.unfinished()) == []
    assert store.read("a/b.bin") == b"half"
    with pytest.raises(ValueError, match="stop"), store.create("a/c.bin") as broken:
        broken.write(b"half")
        raise ValueError("stop")
    assert [o.key for o in store.list()] == ["a/b.bin"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_only_one_writer_creates_a_key(tmp_path: Path) -> None:
    store = storage(tmp_path)
    assert store.put_if_absent("m/1.json", b"first")
    assert not store.put_if_absent("m/1.json", b"second")
    assert store.read("m/1.json") == b"first"
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["1.json"]


def test_put_replaces_and_delete_forgives_what_is_gone(tmp_path: Path) -> None:
    store = storage(tmp_path)
    store.put("a", b"1")
    store.put("a", b"2")
    assert store.read("a") == b"2"
    store.delete(["a", "never"])
    assert not store.exists("a")
    with pytest.raises(NotFoundError):
        store.stat("a")


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    store = storage(tmp_path)
    store.put("a", b"one")
    listed = store.stat("a")
    (tmp_path / "a").write_bytes(b"longer")
    with pytest.raises(TransientError) as caught:
        store.open(listed)
    assert caught.value.code == "storage.changed"
    with store.open(store.stat("a")) as file:
        assert file.read(3) == b"lon"
        with (tmp_path / "a").open("ab") as other:
            other.write(b"more")
        with pytest.raises(TransientError):
            file.read()


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "/etc/passwd", "link", "folder/secret"])
def test_no_key_leads_out_of_the_root(tmp_path: Path, key: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    store = storage(inside)
    for use in (store.stat, store.read, lambda k: store.put(k, b""), lambda k: store.delete([k])):
        with pytest.raises(ConfigError) as caught:
            use(key)
        assert caught.value.code == "storage.outside_root"
    with pytest.raises(ConfigError):
        list(store.list())
    assert (tmp_path / "secret").read_text() == "secret"


def test_links_inside_the_root_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "a.csv").write_text("x")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    (tmp_path / "v1" / "loop").symlink_to(tmp_path)
    assert [o.key for o in storage(tmp_path).glob("current/*.csv")] == ["current/a.csv"]
    assert "v1/a.csv" in [o.key for o in storage(tmp_path).list()]


def test_a_folder_outside_the_allowed_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert storage(tmp_path / "data", root=str(tmp_path)).url
    with pytest.raises(ConfigError):
        storage(Path("/etc"), root=str(tmp_path))


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(storage(tmp_path / "nowhere").list())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv", "b[1].csv"]),
        ("?.csv", ["a.csv"]),
        ("**/*.csv", ["a.csv", "b[1].csv", "x/c.csv", "x/y/d.csv"]),
        ("x/**", ["x/c.csv", "x/y/d.csv"]),
        ("x/*", ["x/c.csv"]),
        ("*/c.csv", ["x/c.csv"]),
        ("[!b]*.csv", ["a.csv"]),
        ("[ab]*.csv", ["a.csv", "b[1].csv"]),
        ("b[[]1].csv", ["b[1].csv"]),
        (".h*", [".hidden.csv"]),
        ("_tmp/*", ["_tmp/e.csv"]),
        ("nothing/*", []),
    ],
)
def test_patterns_stay_in_their_folder_and_skip_hidden_names(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    for name in ["a.csv", "b[1].csv", "x/c.csv", "x/y/d.csv", ".hidden.csv", "_tmp/e.csv", "x/.git/f.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [o.key for o in storage(tmp_path).glob(pattern)] == expected


@pytest.mark.parametrize(
    ("url", "settings", "field"),
    [
        ("gs://bucket", {"gcs": {"service_account_key": "canary{"}}, "gcs"),
        ("az://box", {"azure": {"account": "a", "access_key": "canary!"}}, "azure"),
        ("az://box", {}, "azure.account"),
        ("s3://bucket", {"s3": {"secret_access_key": "canary"}}, "s3.access_key_id"),
    ],
)
def test_keys_of_a_wrong_form_are_refused_and_not_shown(
    url: str, settings: dict[str, object], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_storage(url, StorageConfig.parse(settings))
    assert caught.value.field == field
    assert "canary" not in f"{caught.value.as_dict()}{caught.value!r}"


def test_every_store_opens_without_a_connection() -> None:
    for url, settings in [
        ("gs://bucket/path/", {}),
        ("az://box/path", {"azure": {"account": "a", "sas_token": "sv=1&sig=canary"}}),
        ("s3://bucket/path", {"s3": {"region": "eu-west-1"}}),
    ]:
        assert open_storage(url, StorageConfig.parse(settings)).url == url.rstrip("/")


def test_a_service_accounts_key_names_no_address() -> None:
    """What is dialled is the endpoint, which was checked, or Google's own."""
    from headrace.connector.files.remote import RemoteStorage

    store = open_storage("gs://bucket", StorageConfig.parse({}))
    assert isinstance(store, RemoteStorage)
    assert store._store.config["base_url"] == "https://storage.googleapis.com"


def test_urls_are_split_and_credentials_in_them_refused() -> None:
    assert split_url("s3://bucket/a/*.csv") == ("s3", "bucket", "a/*.csv")
    assert split_url("file:./data") == ("file", "", "./data")
    assert split_url("file:///srv/data") == ("file", "", "/srv/data")
    assert split_url("C:/data") == ("file", "", "C:/data")
    for url, code in [
        ("s3://key:canary@bucket/a", "storage.userinfo"),
        ("s3:///a", "storage.bucket"),
        ("ftp://host/a", "storage.scheme"),
        ("file://host/a", "storage.file_host"),
    ]:
        with pytest.raises(ConfigError) as caught:
            split_url(url)
        assert caught.value.code == code
        assert "canary" not in str(caught.value)
