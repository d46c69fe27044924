"""Servers that run on Java: how Maven fetches them, once, and how they are run."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .server import Missing, find_program

INSTALL = "apt-get install default-jre-headless maven"

KEPT = Path.home() / ".cache" / "msg-connector-template"
"""The folder of all that Maven has fetched."""

OPTIONS = [
    *("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),  # soon ready, on a small machine
    *("-XX:-UsePerfData", "-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
]

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId> <artifactId>tests</artifactId> <version>1</version>
  <dependencies>{}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>{}</dependency>"
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def fetch(name: str, *artifacts: str) -> Path:
    """Return the folder with the jars of `artifacts` and of all that they need; Maven gets them the first time.

    Each is `group:artifact:version`, or `group:artifact:version:alone` without what it needs. Raises `Missing`.
    """
    jars = KEPT / name
    if jars.is_dir():
        return jars
    maven = find_program("mvn", INSTALL)
    print(f"\nfetching {name} with Maven into {jars}", flush=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        words = [artifact.split(":") for artifact in artifacts]
        dependencies = [DEPENDENCY.format(*each[:3], ALONE if each[3:] else "") for each in words]
        (Path(folder) / "pom.xml").write_text(POM.format("".join(dependencies)))
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
        command = [maven, "--batch-mode", "--quiet", *goal]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise Missing(f"Maven could not fetch {name}: {ended.stdout[-1000:]}")
        if not jars.is_dir():
            (Path(folder) / "jars").rename(jars)
    return jars


def java(jars: Sequence[str | Path], main: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs the class `main`, which is in the jars, or what `folder/*` stands for."""
    return [find_program("java", INSTALL), *OPTIONS, *options, "-cp", os.pathsep.join(map(str, jars)), main, *arguments]
