"""Protocol swarm in real processes: one final model everywhere, also when who leads is killed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from real_nodes import federation, kill

from coterie.ledger.shared import audit_shared


def test_one_final_model_though_the_leader_is_killed(tmp_path: Path) -> None:
    sets = {
        "federation.protocol": "swarm",
        "federation.peers": 4,
        "federation.rounds": 30,
        "swarm.min_peers": 3,
        "swarm.sync_frequency": 20,
        "swarm.full_wait": 2.0,
        "training.local_steps": 20,
    }
    with federation(tmp_path, **sets) as made:
        made.start()
        made.wait_for_round(made.nodes[0], 5)
        leader = made.status(made.nodes[0])["chain"]["leader"]
        victim = next(node for node in made.nodes if node.peer == leader)
        kill(victim)
        living = next(node for node in made.nodes if node is not victim)
        made.wait_for_round(living, 10)
        made.restart(victim)
        made.wait_until_done()
        made.stop()
        finals = [(node.home.path / "final.f32").read_bytes() for node in made.nodes]
        assert len({hashlib.sha256(model).hexdigest() for model in finals}) == 1
        assert min(made.accuracy(node) for node in made.nodes) > 0.6
        genesis = bytes.fromhex(made.nodes[0].home.table.federation)
        audits = [audit_shared(node.home.path / "shared.sqlite", genesis) for node in made.nodes]
        assert all(found.fault is None and found.accused == {} for found in audits)
        assert {found.chain.state.epoch for found in audits if found.chain is not None} == {30}
