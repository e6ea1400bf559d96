"""What the pages say is what the code does: commands, settings, codes, links, decisions and promises."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import errors, generate, licences
from headrace import catalog
from headrace.cli.main import app
from headrace.cli.project import load
from headrace.connector import Config, ReadMode, WriteMode
from headrace.errors import HeadraceError
from headrace.model.run import TRANSITIONS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))


def test_the_reference_pages_are_what_the_code_says() -> None:
    assert generate.stale() == [], "run `make docs`"


# Errors


def test_every_error_has_a_dotted_code_that_is_a_literal() -> None:
    for place in errors.places():
        assert place.code is not None, f"{place.where}: the code of {place.error} is not a literal"
        assert place.code in ("", "internal") or errors.CODE.fullmatch(place.code), place


def test_a_code_is_of_one_class_only() -> None:
    classes = {code: {p.error for p in places} for code, places in errors.error_codes().items()}
    assert {code: found for code, found in classes.items() if len(found) > 1} == {}


def test_a_remedy_is_a_sentence_or_ends_with_a_command_to_copy() -> None:
    bad = [p for p in errors.places() if p.remedy and not re.search(r"[.?…]`?$|: \S.*$", p.remedy)]
    assert bad == []


def test_the_tree_of_errors_in_their_module_is_the_one_of_the_code() -> None:
    drawn = re.findall(r"\b[A-Z]\w+", errors.errors.__doc__.split("\n\n")[1])  # type: ignore[union-attr]
    names = [kind.__name__ for kind in errors.error_classes()]
    assert [name for name in drawn if name in names] == names
    for kind in errors.error_classes()[1:]:
        if HeadraceError in kind.__bases__:
            assert re.search(
                rf"{kind.__name__} .*HTTP {kind.http_status} +exit {kind.exit_code}",
                errors.errors.__doc__ or "",
            )


# Settings


def configs() -> dict[str, type[Config]]:
    specs = [*catalog.connectors().values(), *catalog.transforms().values()]
    return {spec.name: spec.config for spec in specs}


def test_every_setting_has_a_sentence_of_help() -> None:
    for name, config in configs().items():
        for path, field, _ in generate.settings(config):
            help = field.get("description", "")
            assert re.fullmatch(r"[A-Z].*\.", help), f"{name}: {path} is explained by {help!r}"


def test_no_secret_has_a_default() -> None:
    for name, config in configs().items():
        secrets = {
            path: field for path, field, _ in generate.settings(config) if generate.is_("secret", field)
        }
        assert secrets.keys() == config.secret_fields(), name
        assert {path for path, field in secrets.items() if field.get("default")} == set(), name


def test_an_address_names_one_connector() -> None:
    schemes = [scheme for spec in catalog.connectors().values() for scheme in spec.config.schemes]
    assert len(schemes) == len(set(schemes))


# Commands and files named in pages


def code(page: Path) -> Iterator[str]:
    """Every line of code on a page, and every piece of code in its text."""
    for number, part in enumerate(page.read_text().split("```")):
        yield from part.splitlines()[1:] if number % 2 else re.findall(r"`([^`\n]+)`", part)


def test_every_command_and_option_named_in_a_page_exists() -> None:
    names = generate.command_names(app)
    groups = {name.partition(" ")[0] for name in names if " " in name}
    seen = 0
    for page in WRITTEN:
        for line in code(page):
            words = re.match(r"(?:\.venv/bin/)?headrace( .*)?$", line.partition("#")[0].strip())
            if not words or "…" in line:
                continue
            command, *rest = shlex.split(words[1] or "") or ["--help"]
            if command.startswith("-") or (command in groups and not rest):
                continue
            seen += 1
            if command in groups:
                command = f"{command} {rest.pop(0)}"
            assert command in names, f"{page.name}: there is no command {line!r}"
            options = re.findall(r"--[a-z-]+", generate.help_text(app, command.split()))
            for word in rest:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, (
                        f"{page.name}: there is no option {word} in {line!r}"
                    )
    assert seen >= 6


def test_every_make_target_named_in_a_page_exists_and_is_explained() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## \S", (ROOT / "Makefile").read_text(), re.M))
    named = {m[1] for page in WRITTEN for line in code(page) if (m := re.match(r"make ([a-z]+)", line))}
    assert {"demo", "test"} <= named <= targets
    assert targets == set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())  # type: ignore[index]


def test_every_module_that_make_runs_exists() -> None:
    for module in re.findall(r"-m (docs[.\w]*|demo)", (ROOT / "Makefile").read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_file_named_in_a_page_exists() -> None:
    roots = (ROOT, ROOT / "src/headrace", ROOT / "docs", ROOT / "tests")
    for page in WRITTEN:
        for name in code(page):
            if re.fullmatch(r"[a-z]\w+(/[\w.-]+)+/?|\w+\.(py|md|toml|lock)", name) and ".venv" not in name:
                stem = [root / name for root in roots] + [root / f"{name}.py" for root in roots]
                numbered = list((ROOT / "docs").glob(f"{name.removeprefix('docs/')}-*.md"))
                assert any(path.exists() for path in stem) or numbered, f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve()
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert target.suffix == ".py" and anchor in proofs_in(target), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, pending = set(), [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)\)", page.read_text())
        pending += [p for link in links if (p := (page.parent / link).resolve()) not in reached]
    unlinked = {page for page in PAGES if page not in reached and page not in DECISIONS}
    assert unlinked <= {ROOT / "CHANGELOG.md"}


def test_every_variable_of_the_environment_is_in_a_page() -> None:
    named = {m for p in (ROOT / "src").rglob("*.py") for m in re.findall(r"HEADRACE_[A-Z]\w+", p.read_text())}
    text = "".join(page.read_text() for page in PAGES)
    assert {name for name in named - {"HEADRACE_COMPLETE"} if name not in text} == set()


def test_the_project_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "headrace.yaml").write_text(block)
    project = load(tmp_path / "headrace.yaml", {"SHOP_PASSWORD": "a", "HASH_SALT": "b"})
    assert [project.connection(name).connector for name in project.connections] == ["postgres", "iceberg"]
    for name in project.pipelines:
        for step in project.pipeline(name).pipeline(name, name).transforms:
            catalog.transform(step.name, step.settings)


# Decisions, words, promises


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_is_dated_and_says_what_follows(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0].startswith(f"# {page.stem[:4]} ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", lines[2])
    assert [line for line in lines if line.startswith("## ")] == [
        "## Context",
        "## Decision",
        "## Consequences",
    ]


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.stem[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_the_modes_are_in_the_glossary() -> None:
    words = (ROOT / "docs/glossary.md").read_text()
    assert [mode for mode in (*ReadMode, *WriteMode) if f"*{mode}*" not in words] == []


GUARANTEES = ROOT / "docs/guarantees.md"
PROMISE = re.compile(r"–|\[[EAB]\]\((?P<path>[^)#]+)#(?P<test>\w+)\)")


def proofs_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def promises() -> dict[tuple[str, str], list[str]]:
    """The cells of the matrix, by source mode and target."""
    part = GUARANTEES.read_text().split("## Source mode × target × write mode")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|")
    ]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def test_every_promise_links_to_the_test_that_proves_it() -> None:
    for key, cells in promises().items():
        for cell in cells:
            found = PROMISE.fullmatch(cell)
            assert found, f"{key}: {cell!r} is neither – nor a letter that links to a test"
            if found["path"]:
                assert found["test"] in proofs_in((GUARANTEES.parent / found["path"]).resolve()), (
                    f"{key}: {cell}"
                )


def test_there_is_a_promise_for_every_source_mode_target_and_write_mode() -> None:
    targets = [name for name, spec in catalog.connectors().items() if spec.target]
    assert set(promises()) == {(mode.value, target) for mode in ReadMode for target in targets}
    assert all(len(cells) == len(WriteMode) for cells in promises().values())


def test_every_arrow_between_the_states_of_a_run_has_a_letter_and_a_cause() -> None:
    letters = re.findall(r"^\| ([a-z]) \| \S", GUARANTEES.read_text(), re.M)
    drawing = GUARANTEES.read_text().split("## The states of a run")[1].split("```")[1]
    assert len(letters) == sum(len(after) for after in TRANSITIONS.values())
    assert sorted(re.findall(r"(?<![a-z])[a-z](?![a-z])", drawing)) == sorted(letters)


def test_a_licence_that_nobody_agreed_to_is_refused() -> None:
    assert licences.free("Apache-2.0 OR GPL-3.0-only")
    assert not licences.free("Apache-2.0 AND GPL-3.0-only")
    assert not licences.free("")
    assert licences.refused() == []
