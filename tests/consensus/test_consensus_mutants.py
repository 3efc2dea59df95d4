"""A rule that is broken on purpose is noticed: by the rule's own test, and by random runs."""

import pytest
import simplex_bench
import test_simplex_rules as rules
from consensus_chaos import chaos
from consensus_mutants import Broken6, Broken8, Broken10, voter_of
from consensus_world import World

from coterie.protocols.consensus import Consensus


@pytest.mark.parametrize(
    ("mutant", "caught_by"),
    [
        (Broken6, rules.test_rule_6_one_block_vote_a_height_for_the_first_proposal),
        (Broken8, rules.test_rule_8_no_final_vote_without_a_quorum),
        (Broken10, rules.test_rule_8_final_on_a_notarised_block_and_not_after_a_dummy_vote),
        (Broken10, rules.test_rule_10_never_a_dummy_after_a_final_vote_nor_the_other_way),
    ],
)
def test_the_rules_own_test_notices(mutant, caught_by, monkeypatch):
    caught_by()
    monkeypatch.setattr(simplex_bench.Bench, "kind", mutant)
    with pytest.raises(AssertionError):
        caught_by()


@pytest.mark.parametrize("mutant", [Broken6, Broken8, Broken10])
def test_random_runs_notice(mutant):
    """Honest voters that break the rule are accused of it, or the chain stands still."""
    for seed in range(60):
        try:
            chaos(seed, voter_of(mutant)).close()
        except AssertionError:
            return
    pytest.fail("sixty runs have seen nothing")


class Forgetting(Consensus):
    """Sends first, and logs nothing."""

    def _save_log(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Consensus, Forgetting])
def test_a_log_that_is_not_written_is_noticed(kind):
    """The first leader dies when its proposal has just left, and returns. Random runs hardly ever see this."""
    world = World([1] * 4, 1, closing=50)
    leader = world.nodes[world.peer_of(world.charter.checkpoint.leader(1))]
    leader.kind = kind
    world.begin()
    world.wait(0.11)
    leader.die()
    leader.start()
    world.wait(3.0)
    accused = any(leader.identity.id in node.consensus.evidence for node in world.honest)
    recorded = any(
        item.kind == "evidence"
        for epoch, height, _ in world.up[0].chain
        for item in world.up[0].ledger.block(epoch, height).read_records()
    )
    assert (accused or recorded) == (kind is Forgetting)
    world.close()
