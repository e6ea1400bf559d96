"""Compiles the kernels when the package is built, by a C compiler that is there or by the wheel `ziglang`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/headrace/native")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
FLAGS = ["-std=gnu11", "-O3", "-shared", "-fvisibility=hidden", "-fno-sanitize=undefined"]
ZIG = "ziglang>=0.13; platform_machine in 'x86_64 AMD64 aarch64 arm64'"
OFF = "HEADRACE_NO_KERNELS"


class KernelsHook(BuildHookInterface[Any]):
    """A package that can't compile them is built without, and is slower."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Asked before the build: zig, about 100 MB, comes only where no other compiler does the work."""
        if os.environ.get(OFF):
            return []
        with tempfile.TemporaryDirectory() as folder:
            found = any(self._compile(c, Path(folder) / f"probe{SUFFIX}") for c in _compilers())
        return [] if found else [ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = Path(self.root) / FOLDER / f"kernels{SUFFIX}"
        fresh = library.with_name(f"kernels.{os.getpid()}{SUFFIX}")
        compilers = [] if os.environ.get(OFF) else [*_compilers(), [sys.executable, "-m", "ziglang", "cc"]]
        try:
            if not any(self._compile(compiler, fresh) for compiler in compilers):
                library.unlink(missing_ok=True)
                self.app.display_warning("headrace is built without its compiled kernels")
                return
            fresh.replace(library)  # a process that has the old one open keeps it
        finally:
            fresh.unlink(missing_ok=True)
        build_data["artifacts"].append(f"/{(FOLDER / library.name).as_posix()}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def _compile(self, compiler: list[str], library: Path) -> bool:
        sources = sorted(str(path) for path in (Path(self.root) / FOLDER).glob("*.c"))
        flags = FLAGS if sys.platform == "win32" else [*FLAGS, "-fPIC"]
        try:
            done = subprocess.run(
                [*compiler, *flags, "-o", str(library), *sources], capture_output=True, check=False
            )
        except OSError:
            return False
        return done.returncode == 0


def _compilers() -> Iterator[list[str]]:
    if named := shlex.split(os.environ.get("CC", "")):
        yield named
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            yield [name]
