"""Refuses a dependency whose licence nobody has agreed to: `python -m docs.licences`."""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

FREE = re.compile(
    r"(0BSD|Apache|BSD|CC0|CNRI-Python|ISC|MIT|MPL|Mozilla Public|PSF|Python Software|Unlicense|Zlib)", re.I
)

AGREED = {
    "codespell": "GPL-2.0: a tool for those who work on Headrace, not part of it",
    "paramiko": "LGPL-2.1: used as a library, unchanged",
    "psycopg": "LGPL-3.0: used as a library, unchanged",
    "psycopg-binary": "LGPL-3.0: used as a library, unchanged",
    "psycopg2-binary": "LGPL-3.0: used as a library, unchanged",
}


def licence(distribution: Distribution) -> str:
    """What a package says of its licence: the expression, or the classifiers, or the free text."""
    about = distribution.metadata.json
    expression = str(about.get("license_expression", ""))
    classifiers = [c.rpartition(" :: ")[2] for c in about.get("classifier", []) if c.startswith("License")]
    text = str(about.get("license", "")).strip().partition("\n")[0]
    return expression or " OR ".join(classifiers) or text


def free(expression: str) -> bool:
    choices = [re.split(r" AND ", choice) for choice in re.split(r" OR ", expression)]
    return any(all(FREE.match(part.strip("() ")) for part in choice) for choice in choices)


def refused() -> list[str]:
    """One line for each installed package that has no agreed licence."""
    found = {d.metadata["Name"]: licence(d) for d in distributions()}
    return [
        f"{name}: {terms or 'no licence named'}"
        for name, terms in sorted(found.items())
        if name.lower() not in AGREED and not free(terms)
    ]


if __name__ == "__main__":
    sys.exit(
        "\n".join(["These licences are not agreed to (docs/licences.py):", *bad]) if (bad := refused()) else 0
    )
