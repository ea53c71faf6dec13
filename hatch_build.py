"""Builds the optional extensions, `SOURCES`, with the C compiler that Python knows.

Without a compiler or Python's headers, or with SYNCHROSCOPE_PURE=1, nothing is built and nothing
fails: `validator.batch_columns`, `synchroscope.native_hashing`,
`pipeline.kafka_confluent_records` and `pipeline.kafka_python_records` then leave everything to
Python.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = (
    Path("validator") / "_columns.c",
    Path("synchroscope") / "_hashing.c",
    Path("pipeline") / "_messages.c",
    Path("pipeline") / "_batches.c",
)
PURE = "SYNCHROSCOPE_PURE"
COMPILE_SECONDS = 300.0


class CustomBuildHook(BuildHookInterface[Any]):
    """Compiles into the source tree, where an editable installation finds it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extensions and have the wheel hold them."""
        for source in SOURCES:
            self._build(source, version, build_data)

    def _build(self, source: Path, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
        built = (root / source).with_suffix(suffix)
        built.unlink(missing_ok=True)
        if os.environ.get(PURE, "0") != "0":
            return
        reason = compiled(root / source, built)
        if reason:
            built.unlink(missing_ok=True)
            print(f"{source} is not built, Python does its work: {reason}", file=sys.stderr)
        elif version != "editable":
            build_data["force_include"][str(built)] = str(source.with_suffix(suffix))
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def compiled(source: Path, built: Path) -> str:
    """Compile an extension; return why that failed, or nothing."""
    linker = shlex.split(sysconfig.get_config_var("LDSHARED") or "")
    if not linker:
        return "no C compiler is known"
    if os.environ.get("CC"):
        linker[:1] = shlex.split(os.environ["CC"])
    shared = shlex.split(sysconfig.get_config_var("CCSHARED") or "")
    include = f"-I{sysconfig.get_paths()['include']}"
    options = ["-std=c11", "-O3", "-DNDEBUG", include]
    command = [*linker, *shared, *options, str(source), "-o", str(built)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip()[-500:] if done.returncode else ""
