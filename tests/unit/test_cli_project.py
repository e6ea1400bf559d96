"""headrace.yaml: what is read from it, and how every mistake is named with its line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from headrace.cli.project import Project, load
from headrace.errors import ConfigError, HeadraceError, NotFoundError
from headrace.model.pipeline import SchemaPolicy, StreamChoice, Tuning, WriteMode
from headrace.model.stream import ReadMode

GOOD = """\
project: shop
connections:
  made:
    connector: generator
    rows: ${ROWS:-10}
  out:
    url: parquet:./out
pipelines:
  nightly:
    from: made
    to: out
    streams:
      - orders
      - name: customers
        read: incremental
        cursor: updated_at
        mode: upsert
        key: id
        look_back: 1h30m
    transforms:
      - name: hash
        streams: customers
        settings: {columns: [email], salt: "${SALT:-0123456789abcdef}"}
    schema_policy: fail
    tuning: {parallelism: 4, commit_interval: 5s}
"""


def project(folder: Path, text: str, **environ: str) -> Project:
    file = folder / "headrace.yaml"
    file.write_text(text)
    return load(file, environ)


def mistake(folder: Path, text: str, **environ: str) -> HeadraceError:
    """The first mistake in a file."""
    try:
        return next(project(folder, text, **environ).mistakes())
    except HeadraceError as error:
        return error


def test_a_pipeline_is_read_with_its_streams_transforms_and_tuning(tmp_path: Path) -> None:
    found = project(tmp_path, GOOD)
    pipeline = found.pipeline("nightly").pipeline(found.pipeline_id("nightly"), "nightly")
    assert list(found.mistakes()) == []
    assert (pipeline.id, pipeline.source, pipeline.target) == ("shop/nightly", "made", "out")
    assert pipeline.streams == (
        StreamChoice(stream="orders"),
        StreamChoice(
            stream="customers",
            read=ReadMode.INCREMENTAL,
            cursor="updated_at",
            write=WriteMode.UPSERT,
            key=("id",),
            look_back=timedelta(minutes=90),
        ),
    )
    assert pipeline.transforms[0].settings == {"columns": ["email"], "salt": "0123456789abcdef"}
    assert pipeline.transforms[0].streams == ("customers",)
    assert pipeline.schema_policy is SchemaPolicy.FAIL
    assert pipeline.tuning == Tuning(parallelism=4, commit_interval=timedelta(seconds=5))


def test_a_reference_is_filled_in_and_its_default_holds_for_an_unset_variable(tmp_path: Path) -> None:
    assert project(tmp_path, GOOD).connection("made").settings == {"rows": "10"}
    assert project(tmp_path, GOOD, ROWS="7").connection("made").settings == {"rows": "7"}


def test_a_cursor_alone_means_an_incremental_read(tmp_path: Path) -> None:
    text = GOOD.replace("        read: incremental\n", "")
    (_, customers) = project(tmp_path, text).pipeline("nightly").streams
    assert customers.choice().read is ReadMode.INCREMENTAL


@pytest.mark.parametrize(
    ("old", "new", "line", "code", "words"),
    [
        ("    streams:", "    strems:", 12, "project.unknown_key", "Did you mean 'streams'?"),
        ("        mode: upsert", "        moed: upsert", 17, "project.unknown_key", "Did you mean 'mode'?"),
        ("parallelism: 4", "paralelism: 4", 25, "project.unknown_key", "Did you mean 'parallelism'?"),
        ("connections:", "conections:", 2, "project.unknown_key", "Did you mean 'connections'?"),
        ("    from: made", "    from: maid", 10, "project.invalid", "Did you mean 'made'?"),
        ("    from: made\n", "", 9, "project.invalid", "'from' is missing"),
        ("mode: upsert", "mode: upset", 17, "project.invalid", "'append', 'upsert' or 'replace'"),
        ("look_back: 1h30m", "look_back: soon", 19, "project.invalid", "90s, 15m, 1h30m"),
        ("parallelism: 4", "parallelism: many", 25, "project.invalid", "valid integer"),
        ("schema_policy: fail", "schema_policy: [fail]", 24, "project.invalid", "schema_policy"),
        ("    connector: generator\n", "", 3, "project.invalid", "`connector` or `url`"),
        ("connector: generator", "connector: generater", 4, "catalog.unknown_connector", "'generator'"),
        ("    rows: ${ROWS:-10}", "    rws: 10", 5, "config.unknown_setting", "Did you mean 'rows'?"),
        ("    rows: ${ROWS:-10}", "    rows: -1", 5, "config.bad_setting", "rows"),
        ("    rows: ${ROWS:-10}", "    rows: ${ROWS}", 5, "project.unset_variable", "ROWS is not set"),
        ("    rows: ${ROWS:-10}", "    rows: ${1}", 5, "project.bad_reference", "'${1}'"),
        ("    rows: ${ROWS:-10}", "    rows: ${file:gone}", 5, "project.unreadable_file", "gone"),
        ("    url: parquet:./out", "    url: parqet:./out", 6, "catalog.unknown_address", "parquet:"),
        ("name: hash", "name: hsah", 21, "catalog.unknown_transform", "'hash'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_the_remedy(
    tmp_path: Path, old: str, new: str, line: int, code: str, words: str
) -> None:
    assert old in GOOD
    error = mistake(tmp_path, GOOD.replace(old, new, 1))
    assert (error.code, error.exit_code in (3, 5)) == (code, True)
    assert error.message.startswith(f"{tmp_path / 'headrace.yaml'}:{line}: ")
    assert words in f"{error.message} {error.remedy}"


def test_text_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    error = mistake(tmp_path, GOOD.replace("    rows: ${", "   rows: ${"))
    assert (error.code, error.exit_code) == ("project.bad_yaml", 3)
    assert ":5: " in error.message


def test_a_tab_is_named_with_its_line(tmp_path: Path) -> None:
    error = mistake(tmp_path, GOOD.replace("    to: out", "\tto: out"))
    assert error.code == "project.bad_yaml"
    assert ":11: " in error.message or ":10: " in error.message


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    error = mistake(tmp_path, GOOD.replace("    to: out", "    to: out\n    from: out"))
    assert (error.code, error.field) == ("project.duplicate_key", "from")
    assert ":12: " in error.message


@pytest.mark.parametrize("text", ["- a\n", "hello\n"])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    assert mistake(tmp_path, text).code == "project.invalid"


def test_an_empty_file_is_an_empty_project(tmp_path: Path) -> None:
    found = project(tmp_path, "")
    assert (found.connections, found.pipelines, list(found.mistakes())) == ([], [], [])


def test_validate_finds_all_mistakes_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("${ROWS:-10}", "${ROWS}").replace("mode: upsert", "mode: x")
    assert [e.code for e in project(tmp_path, text).mistakes()] == [
        "project.unset_variable",
        "project.invalid",
    ]


def test_a_misspelled_key_hides_no_other_mistake_of_its_pipeline(tmp_path: Path) -> None:
    text = GOOD.replace("look_back: 1h30m", "lok_back: 1h").replace("mode: upsert", "mode: ${MODE}")
    text = text.replace("parallelism: 4", "parallelism: many")
    found = [(e.code, e.field) for e in project(tmp_path, text).mistakes()]
    assert [code for code, _ in found] == [
        "project.unknown_key",
        "project.invalid",
        "project.unset_variable",
    ], found


def test_a_misspelled_setting_is_the_cause_of_the_one_that_is_missing(tmp_path: Path) -> None:
    error = mistake(
        tmp_path,
        "connections:\n  a:\n    connector: postgres\n    hots: h\n    database: d\n    username: u\n",
    )
    assert (error.code, error.field) == ("config.unknown_setting", "hots")
    assert ":4: " in error.message and error.remedy == "Did you mean 'host'?"


def test_a_pipeline_runs_although_the_variables_of_another_are_not_set(tmp_path: Path) -> None:
    text = GOOD.replace("pipelines:", "  other: {connector: generator, rows: '${UNSET}'}\npipelines:")
    found = project(tmp_path, text)
    assert found.pipeline("nightly").source == "made"
    with pytest.raises(ConfigError, match="UNSET"):
        found.connection("other")


def test_an_unknown_pipeline_is_not_found_and_the_nearest_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        project(tmp_path, GOOD).pipeline("nigthly")
    assert caught.value.remedy == "Did you mean 'nightly'?"


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load(tmp_path / "none.yaml", {})
    assert caught.value.exit_code == 5


def test_settings_may_stand_beside_an_address(tmp_path: Path) -> None:
    text = "connections: {db: {url: 'postgresql://me@h/d', password: '${PW}', ssl_mode: require}}"
    settings = project(tmp_path, text, PW="x").connection("db").settings
    assert (settings["host"], settings["password"], settings["ssl_mode"]) == ("h", "x", "require")


def test_a_connector_may_have_a_setting_of_that_name(tmp_path: Path) -> None:
    text = "connections: {in: {connector: files, url: ./a.csv, types: {n: integer}}}"
    assert project(tmp_path, text).connection("in").settings["url"] == "./a.csv"


def test_a_secret_in_an_address_comes_from_the_environment(tmp_path: Path) -> None:
    text = "connections: {db: {url: 'postgresql://me:${PW}@h/d'}}"
    settings = project(tmp_path, text, PW="a@b/c:d%20").connection("db").settings
    assert settings["password"] == "a@b/c:d%20"
