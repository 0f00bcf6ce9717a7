"""The interchange formats held against the libraries that they belong to, in both directions.

`make test-peers` runs this and nothing else does: it installs the libraries, each into an environment of its own under
$SAEFLOW_PEERS (default ~/.cache/saeflow/peers). Everything a peer does happens in one process of that
environment, in the script beside this file that has its name.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.interchange import FORMATS, Provenance, detect
from tests.peers.dictionaries import HELD_BY, random_dictionary, random_rows
from tests.peers.environments import REQUIREMENTS, run_in

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]

TOLERANCE = 1e-5
PROVENANCE = Provenance("a-model", "blocks.3.hook_resid_post", 256, False, "package:numpy")


@dataclass(frozen=True)
class Exchange:
    """What saeflow wrote and the peer rebuilt with it; what the peer wrote and rebuilt itself."""

    peer: str
    directory: Path
    exported: dict[str, Tensor]
    made: dict[str, Tensor]


@pytest.fixture(scope="module", params=HELD_BY)
def exchange(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    peer: str = request.param
    directory = tmp_path_factory.mktemp(peer)
    save_file({"rows": random_rows()}, directory / "rows.safetensors")
    for name in HELD_BY[peer]:
        FORMATS[peer].write(random_dictionary(name), directory / "exported" / name, PROVENANCE)
    run_in(peer, directory)
    made = load_file(directory / "made.safetensors")
    return Exchange(peer, directory, load_file(directory / "exported.safetensors"), made)


def report(exchange: Exchange, direction: str, errors: dict[str, float]) -> None:
    for name, error in errors.items():
        print(f"{REQUIREMENTS[exchange.peer]:28} {direction:9} {name:24} {error:.1e}")
    assert max(errors.values()) < TOLERANCE


def test_the_peer_does_with_what_saeflow_wrote_what_saeflow_does(exchange: Exchange):
    assert exchange.exported.keys() == HELD_BY[exchange.peer]
    rows = random_rows()
    errors = {
        name: (random_dictionary(name)(rows) - rebuilt).abs().max().item()
        for name, rebuilt in exchange.exported.items()
    }
    report(exchange, "exported", errors)


def test_saeflow_does_with_what_the_peer_wrote_what_the_peer_does(exchange: Exchange):
    assert exchange.made
    errors = {}
    for name, rebuilt in exchange.made.items():
        place = exchange.directory / "made" / name
        assert detect(place) == exchange.peer
        errors[name] = (FORMATS[exchange.peer].read(place)(random_rows()) - rebuilt).abs().max().item()
    report(exchange, "made", errors)


def test_what_saeflow_does_not_have_is_refused(exchange: Exchange):
    for place in (exchange.directory / "refused").iterdir():
        with pytest.raises(ValueError, match=r"\.json"):
            FORMATS[exchange.peer].read(place)
