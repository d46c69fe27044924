"""The server for the tests: Google's emulator of Pub/Sub, which comes with the Google Cloud SDK."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

from .contract.server import Missing, Server, find_program

INSTALL = "apt-get install google-cloud-cli-pubsub-emulator, or gcloud components install pubsub-emulator"
UNTOLD = "Pub/Sub accepts a message before it delivers it, and tells nobody when it has"
MAIN = "com.google.cloud.pubsub.testing.v1.Main"

MISMATCHED = {"0.8.20": "1.68.1"}
"""By version of the emulator: the version of gRPC for whose API it was built, where it comes with that of another.

It does not notice then that a stream has ended, and goes on delivering to nodes that are gone.
"""
JARS = Path(os.environ.get("PUBSUB_JARS") or Path.home() / ".cache" / "msg-connector-template" / "pubsub")
"""Where gRPC's API lies, once it has been fetched."""


def emulator() -> Path:
    """Return where the emulator is, in the SDK that `gcloud` belongs to."""
    if gcloud := shutil.which("gcloud"):
        folder = Path(gcloud).resolve().parent.parent / "platform" / "pubsub-emulator" / "lib"
        for jar in folder.glob("cloud-pubsub-emulator-*.jar"):
            return jar
    raise Missing(f"the emulator of Pub/Sub is not installed: {INSTALL}")


def version_of(jar: Path) -> str:
    """Return the version of the emulator."""
    return jar.stem.removeprefix("cloud-pubsub-emulator-").removesuffix("-all")


def fetch() -> list[Path]:
    """Return the jars that make an emulator; get what its own lacks with Maven, unless it is here already."""
    jar = emulator()
    if not (version := MISMATCHED.get(version_of(jar))):
        return [jar]
    api = JARS / f"grpc-api-{version}.jar"
    if not api.exists():
        maven = find_program("mvn", "apt-get install maven")
        print(f"\nfetching gRPC's API {version} with Maven into {JARS}", flush=True)
        JARS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=JARS) as folder:
            goal = ["dependency:copy", f"-Dartifact=io.grpc:grpc-api:{version}", f"-DoutputDirectory={folder}"]
            ended = subprocess.run(
                [maven, "--batch-mode", "--quiet", *goal], capture_output=True, text=True, cwd=folder
            )
            if ended.returncode:
                raise Missing(f"Maven could not fetch gRPC's API {version}: {ended.stdout[-1000:]}")
            (Path(folder) / api.name).replace(api)
    return [api, jar]


class Broker(Server):
    """An emulator; it keeps what a node has missed, but nothing over a restart."""

    keeps_messages = True
    not_applicable: ClassVar[dict[str, str]] = {
        "test_a_second_listener_gets_nothing_from_before_it_subscribed": UNTOLD,
        "test_what_is_on_its_way_when_a_second_listener_comes_passes_it_by": UNTOLD,
    }
    projects = ""
    """Which projects there are, separated by commas; none: any."""

    def version(self) -> str:
        return f"the Pub/Sub emulator {version_of(emulator())}"

    def command(self) -> list[str]:
        java = find_program("java", "apt-get install default-jre-headless")
        quick = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        place = ["--host=127.0.0.1", f"--port={self.port}"]
        some = [f"--projects={self.projects}"] if self.projects else []
        return [java, *quick, "-cp", os.pathsep.join(map(str, fetch())), MAIN, *place, *some]

    @property
    def url(self) -> str:
        return f"pubsub://127.0.0.1:{self.port}/deepstream"


if __name__ == "__main__":
    fetch()
