from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.model.workspace import LOCAL
from headrace.store.secrets import KEY_FILE, MasterKeys, Place, Sealed

PLACE = Place("w1", "c1", "password")


def text(key: bytes | None = None) -> str:
    return base64.b64encode(key or secrets.token_bytes(32)).decode()


def load(*keys: str) -> MasterKeys:
    return MasterKeys.load(Path("/nowhere"), {"HEADRACE_MASTER_KEY": ",".join(keys)})


@pytest.mark.parametrize("secret", ["", "s3cret", "päss wörd\0\n", "x" * 100_000])
def test_a_sealed_secret_opens_to_the_same_text(secret: str) -> None:
    keys = load(text())
    assert keys.open(keys.seal(secret, PLACE), PLACE) == secret


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    keys = load(text())
    one, two = keys.seal("s3cret", PLACE), keys.seal("s3cret", PLACE)
    assert one.sealed != two.sealed
    assert one.wrapped != two.wrapped


@pytest.mark.parametrize(
    "other",
    [Place("w1", "c2", "password"), Place("w1", "c1", "token"), Place("w2", "c1", "password")],
    ids=str,
)
def test_a_sealed_secret_opens_in_its_own_place_only(other: Place) -> None:
    keys = load(text())
    sealed = keys.seal("s3cret", PLACE)
    with pytest.raises(ConfigError) as raised:
        keys.open(sealed, other)
    assert raised.value.code == "store.seal_broken"


def test_the_data_key_of_another_secret_does_not_open_this_one() -> None:
    keys = load(text())
    mine, other = keys.seal("s3cret", PLACE), keys.seal("other", PLACE)
    with pytest.raises(ConfigError):
        keys.open(Sealed(mine.key_id, other.wrapped, mine.sealed), PLACE)


@pytest.mark.parametrize("part", ["wrapped", "sealed"])
@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:5], lambda b: b""],
    ids=["flipped", "short", "empty"],
)
def test_changed_bytes_do_not_open(part: str, change) -> None:
    keys = load(text())
    sealed = keys.seal("s3cret", PLACE)
    values = {"wrapped": sealed.wrapped, "sealed": sealed.sealed}
    values[part] = change(values[part])
    with pytest.raises(ConfigError) as raised:
        keys.open(Sealed(sealed.key_id, **values), PLACE)
    assert raised.value.code == "store.seal_broken"


def test_an_older_key_opens_and_the_first_one_seals() -> None:
    old, new = text(), text()
    before = load(old).seal("s3cret", PLACE)
    both = load(new, old)
    assert both.open(before, PLACE) == "s3cret"
    assert both.seal("s3cret", PLACE).key_id == load(new).current


def test_a_rewrapped_secret_needs_the_old_key_no_longer() -> None:
    old, new = text(), text()
    before = load(old).seal("s3cret", PLACE)
    after = load(new, old).rewrap(before, PLACE)
    assert load(new).open(after, PLACE) == "s3cret"
    assert after.sealed == before.sealed
    with pytest.raises(ConfigError) as raised:
        load(new).open(before, PLACE)
    assert raised.value.code == "store.key_missing"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("not base64 at all!", "store.key_malformed"),
        ("ключ", "store.key_malformed"),
        (text(bytes(range(32))) + ",", "store.key_length"),
        (text(bytes(range(16))), "store.key_length"),
        (text(bytes(range(33))), "store.key_length"),
        (text(bytes(32)), "store.key_weak"),
        (text(b"changeme" * 4), "store.key_weak"),
    ],
)
def test_a_key_that_is_no_good_is_refused_and_not_repeated(value: str, code: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(value)
    assert raised.value.code == code
    assert raised.value.field == "HEADRACE_MASTER_KEY"
    assert value.strip(",") not in str(raised.value.as_dict())


def test_the_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    mask = os.umask(0)
    try:
        first = MasterKeys.load(folder, {})
    finally:
        os.umask(mask)
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]
    assert MasterKeys.load(folder, {}).current == first.current


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    MasterKeys.load(tmp_path, {})
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(ConfigError) as raised:
        MasterKeys.load(tmp_path, {})
    assert raised.value.code == "store.key_file_open"
    assert "chmod 600" in (raised.value.remedy or "")


def test_an_empty_key_file_is_refused_rather_than_filled(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).touch(0o600)
    with pytest.raises(ConfigError) as raised:
        MasterKeys.load(tmp_path, {})
    assert raised.value.code == "store.key_length"


def test_a_new_key_on_the_first_line_of_the_file_is_the_current_one(tmp_path: Path) -> None:
    old = MasterKeys.load(tmp_path, {})
    path, new = tmp_path / KEY_FILE, text()
    path.write_text(f"{new}\n{path.read_text()}")
    both = MasterKeys.load(tmp_path, {})
    assert both.current == load(new).current
    assert both.open(old.seal("s3cret", PLACE), PLACE) == "s3cret"


def test_a_folder_that_can_not_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as raised:
        MasterKeys.load(tmp_path / "file", {})
    assert raised.value.code == "store.key_file"


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from headrace.store.secrets import MasterKeys;"
        "sys.stdin.read(); print(MasterKeys.load(Path(sys.argv[1]), {}).current)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "data"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)


def test_neither_keys_nor_sealed_text_show_themselves() -> None:
    key = secrets.token_bytes(32)
    keys = load(text(key))
    sealed = keys.seal("s3cret", PLACE)
    shown = f"{keys!r} {sealed!r} {sealed}"
    assert text(key) not in shown
    assert repr(key) not in shown
    assert repr(sealed.sealed) not in shown


def test_what_was_sealed_before_workspaces_had_ids_opens_in_the_local_one() -> None:
    assert Place(LOCAL, "c1", "password").bind("secret") == b'["secret", "default", "c1", "password"]'
