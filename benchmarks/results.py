"""Reports as files, and as tables: of contests in docs/benchmarks.md, of us alone in docs/performance.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import environments, process
from benchmarks.marks import line

RESULTS = Path(__file__).parent / "results"
PAGE = environments.ROOT / "docs" / "benchmarks.md"
OURS = PAGE.with_name("performance.md")
TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "startup": process.table_of_starts,
    "memory": process.table_of_memory,
}
START = "<!-- Written by `python -m benchmarks render` from benchmarks/results. -->"


def counts(report: Mapping[str, Any]) -> bool:
    """Is it a result, or a quick try over fewer rows?"""
    return not report["quick"]


def save(part: str, report: Mapping[str, Any], results: Path = RESULTS) -> Path:
    folder = results if counts(report) else environments.CACHE / "tries"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{report['at'][:10]}-{part}.json"
    file.write_text(json.dumps({part: report}, indent=1) + "\n")
    return file


def newest(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """By part, the newest report of those that say whether they are a quick try."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(results.glob("*.json")):
        for part, report in json.loads(file.read_text()).items():
            if "quick" in report:
                found[part] = report
    return dict(sorted(found.items()))


def render() -> None:
    reports = newest()
    PAGE.write_text(beside_others(PAGE.read_text(), reports))
    OURS.write_text(of_our_process(OURS.read_text(), reports))


def beside_others(page: str, reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the tables of contests as they are now."""
    head, _, _ = page.partition(START)
    return f"{head}{START}\n\n{tables({p: found for p, found in reports.items() if 'marks' in found})}"


def of_our_process(page: str, reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with what stands between a part's comment and the next `<!-- end -->` as it is now."""
    for part, table in TABLES.items():
        head, start, rest = page.partition(f"<!-- {part}: written by `python -m benchmarks render` -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        if part in reports:
            page = f"{head}{start}\n{table(reports[part])}\n\n{_where(reports[part])}\n\n{end}{tail}"
    return page


def tables(reports: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(text for part, report in reports.items() for text in _section(part, report))


def _section(part: str, report: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {report['title']}\n"
    yield f"`make bench PARTS={part}` · {report['at'][:10]} · {report['rows']:,} rows · {_server(report)}"
    yield f"· {_machine(report)}\n"
    yield "| | whole, s | inner, s | rows/s | CPU s | peak MB | runs | how |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from _rows(report)
    yield ""
    yield from (f"- {line(mark)}" for mark in report["marks"])
    yield ""


def _where(report: Mapping[str, Any]) -> str:
    return f"{report['at'][:10]} · {_server(report)} · {_machine(report)}"


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"{report['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, Linux {machine['kernel']}"
    )


def _server(report: Mapping[str, Any]) -> str:
    if not report.get("server"):
        return "no server"
    settings = report["server"]["settings"]
    return f"PostgreSQL {report['server']['version']}, fsync {settings['fsync']}"


def _rows(report: Mapping[str, Any]) -> Iterator[str]:
    """Limits first, then from fast to slow; a wrong copy after all others and without a rate."""

    def order(name: str) -> tuple[bool, bool, float]:
        runs = report["runs"].get(name)
        kind = report["sides"][name]["kind"]
        wall = statistics.median(run["wall"] for run in runs) if runs else float("inf")
        return kind != "limit", _wrong(report, name) is not None, wall

    for name in sorted(report["sides"], key=order):
        side = report["sides"][name]
        label = f"**{name}**" if side["kind"] == "ours" else name
        notes = [side["settings"], *([f"*not level: {side['not_level']}*"] if side["not_level"] else [])]
        if wrote := side.get("wrote"):
            notes.append(
                f"{wrote['files']} file(s), {wrote['row_groups']} row groups, {wrote['bytes'] / 1e6:.0f} MB"
            )
        runs = report["runs"].get(name)
        if not runs:
            yield f"| {label} | – | – | – | – | – | 0 | did not run: {_one_line(side['failed'])} |"
            continue
        wall, inner, memory = (
            statistics.median(run[what] for run in runs) for what in ("wall", "inner", "peak_mb")
        )
        cpu = f"{statistics.median(run['cpu'] for run in runs):.1f}" if "cpu" in runs[0] else "–"
        rate = f"{report['rows'] / wall:,.0f}"
        if wrong := _wrong(report, name):
            rate = "**WRONG**"
            notes.insert(0, wrong)
        figures = f"{wall:.2f} | {inner:.2f} | {rate} | {cpu} | {memory:.0f} | {len(runs)}"
        yield f"| {label} | {figures} | {'; '.join(notes)} |"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _wrong(report: Mapping[str, Any], name: str) -> str | None:
    return next((run["wrong"] for run in report["runs"].get(name, ()) if run["wrong"]), None)
