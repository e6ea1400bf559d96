"""Packs one module of this folder into a wheel, with no build tool and no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

HERE = Path(__file__).parent


def wheel(
    folder: Path, module: str, version: str = "1.0.0", *, licence: str = "MIT", script: bool = True
) -> Path:
    """The wheel of `airbyte-<module>`; without `script` it has no command, and is started by its name."""
    name = f"airbyte_{module}"
    about = f"{name}-{version}.dist-info"
    files = {
        f"{about}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            f"Summary: Things of a test.\nLicense: {licence}\nRequires-Python: >=3.8\n"
        ),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    code = (HERE / f"{module}.py").read_text()
    if script:
        files[f"{module}.py"] = code
        command = module.replace("_", "-")
        files[f"{about}/entry_points.txt"] = f"[console_scripts]\n{command} = {module}:main\n"
    else:
        files |= {f"{name}/__init__.py": "", f"{name}/__main__.py": code + "\n\nmain()\n"}
    path = folder / f"{name}-{version}-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{inside},sha256={digest},{len(text.encode())}\n"
        archive.writestr(zipfile.ZipInfo(f"{about}/RECORD"), record + f"{about}/RECORD,,\n")
    return path
