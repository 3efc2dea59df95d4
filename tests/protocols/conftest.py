"""For tests of the swarm protocol: worlds that end with the test."""

import pytest
from swarm_world import World


@pytest.fixture
def worlds():
    made = []

    def make(**how):
        made.append(World(**how))
        return made[-1]

    yield make
    for world in made:
        world.close()
