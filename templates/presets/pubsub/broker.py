"""The server for the tests: Google's emulator of Pub/Sub, which comes with the Google Cloud SDK."""

import shutil
from pathlib import Path
from typing import ClassVar

from .contract.public import Missing, Server, fetch, java

INSTALL = "apt-get install google-cloud-cli-pubsub-emulator, or gcloud components install pubsub-emulator"
UNTOLD = "Pub/Sub accepts a message before it delivers it, and tells nobody when it has"
ONE_ADDRESS = "the service has one address, and so has the emulator: several hosts are refused"
UNORDERED = "the emulator delivers new messages before it delivers again those that were on a connection that broke"
MAIN = "com.google.cloud.pubsub.testing.v1.Main"

MISMATCHED = {"0.8.20": "1.68.1"}
"""By version of the emulator: the version of gRPC for whose API it was built, where it comes with that of another.

It does not notice then that a stream has ended, and goes on delivering to nodes that are gone.
"""


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


def jars() -> list[str | Path]:
    """Return the emulator's jar, and before it the jars that it lacks, which Maven fetches the first time."""
    jar = emulator()
    version = MISMATCHED.get(version_of(jar))
    return [f"{fetch(f'grpc-api-{version}', f'io.grpc:grpc-api:{version}:alone')}/*", jar] if version else [jar]


UNASKED = (
    "where the broker keeps messages, nobody is asked how far a sender has come: cluster_key keeps forged frames off"
)
RESENT = "what was sent into a silent stream comes again after a deadline of 10 s, and may go into the same stream then"


class Broker(Server):
    """An emulator; it keeps what a node has missed, but nothing over a restart."""

    workers = 2
    not_applicable: ClassVar[dict[str, str]] = {
        "test_a_fork_may_come_when_it_is_in_use": "gRPC is of no use in a child whose parent has used it",
        "test_a_second_listener_gets_nothing_from_before_it_subscribed": UNTOLD,
        "test_what_is_on_its_way_when_a_second_listener_comes_passes_it_by": UNTOLD,
        "test_a_second_listener_gets_nothing_of_a_gap_that_is_being_repaired": UNTOLD,
        "test_a_second_listener_waits_for_a_repair_and_then_misses_nothing": UNTOLD,
        "test_all_that_was_published_meanwhile_arrives_in_order[mute]": UNORDERED,
        "test_each_connection_is_noticed_alone[silence]": RESENT,
        "test_each_connection_is_noticed_alone[silence_of_the_node]": RESENT,
        "test_a_burst_that_is_cut_off_arrives_whole": UNORDERED,
        "test_a_storm_loses_nothing[0]": UNORDERED,
        "test_a_storm_loses_nothing[1]": UNORDERED,
        "test_a_bad_first_host_keeps_no_node_away[refuses]": ONE_ADDRESS,
        "test_a_bad_first_host_keeps_no_node_away[silent]": ONE_ADDRESS,
        "test_a_bad_first_host_keeps_no_node_away[drops]": ONE_ADDRESS,
        "test_no_forged_frame_makes_later_messages_of_a_living_node_vanish": UNASKED,
        "test_a_forged_run_of_the_next_numbers_is_seen_through": UNASKED,
    }
    projects = ""
    """Which projects there are, separated by commas; none: any."""

    def version(self) -> str:
        return f"the Pub/Sub emulator {version_of(emulator())}"

    def command(self) -> list[str]:
        place = ["--host=127.0.0.1", f"--port={self.port}"]
        some = [f"--projects={self.projects}"] if self.projects else []
        return java(jars(), MAIN, *place, *some)

    @property
    def url(self) -> str:
        return f"pubsub://127.0.0.1:{self.port}/deepstream"


if __name__ == "__main__":
    jars()
