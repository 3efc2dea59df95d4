"""A node's figures as Prometheus has them. Labels are members, by short name, and words of fixed lists."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily as Total
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from coterie import __version__
from coterie.identity import short_name

if TYPE_CHECKING:
    from coterie.runtime.node.daemon import Node

STATES = ("waiting", "ready", "training", "done", "spare", "idle", "failed")
_REASONS = 64
"""Most kinds of refusal that are told apart; there are fewer."""


class Exposition(Collector):
    """What is known at this moment; what is not, such as the accuracy before the first evaluation, is left out."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: the node may have no part in the protocol yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        node = self._node
        yield from self._standing()
        yield from self._round()
        transport = node.transport
        yield Total("coterie_sent_bytes", "Bytes sent to members.", transport.bytes_sent)
        yield Total("coterie_received_bytes", "Bytes received of members.", transport.bytes_received)
        yield from self._members()
        yield from self._refused()
        left = node.transport_key.certificate.ends - datetime.datetime.now(datetime.UTC)
        days = left / datetime.timedelta(days=1)
        yield Gauge("coterie_certificate_days_left", "Days until the transport certificate ends.", days)
        head = node.roster.store.head(node.identity.id)
        height = 0 if head is None else head.height + 1
        yield Gauge("coterie_ledger_blocks", "Blocks in this peer's own chain.", height)
        yield self._jobs()

    def _standing(self) -> Iterator[Metric]:
        node = self._node
        name = node.roster.genesis.federation
        info = Gauge("coterie_node_info", "Always 1.", labels=("version", "name", "federation"))
        info.add_metric((__version__, short_name(node.identity.id), name), 1)
        yield info
        state = Gauge("coterie_state", "1 for the state that the node is in.", labels=("state",))
        for one in STATES:
            state.add_metric((one,), float(node.part.state == one))
        yield state
        yield Gauge("coterie_rounds_done", "Rounds that are over.", node.part.standing().round + 1)
        if node.part.spec is not None:
            yield Gauge("coterie_rounds", "Rounds of the spec.", node.part.spec.federation.rounds)

    def _round(self) -> Iterator[Metric]:
        metrics = self._node.part.metrics
        if metrics is None:
            return
        if metrics.loss is not None:
            yield Gauge("coterie_train_loss", "Loss of the last local steps.", metrics.loss)
        if metrics.last is not None:
            yield Gauge("coterie_evaluated_round", "The last evaluated round, from 0.", metrics.last.round)
            yield Gauge("coterie_accuracy", "On the test set, after that round.", metrics.last.accuracy)
            yield Gauge("coterie_loss", "On the test set, after that round.", metrics.last.loss)

    def _members(self) -> Iterator[Metric]:
        node = self._node
        members, connected = node.roster.membership.members, set(node.transport.connected)
        yield Gauge("coterie_members", "Members of the federation, this one included.", len(members))
        yield Gauge("coterie_connected_members", "Members with an open stream.", len(connected & set(members)))
        each = Gauge("coterie_member_connected", "1 where a stream is open.", labels=("member",))
        for peer in members:
            if peer != node.identity.id:
                each.add_metric((short_name(peer),), float(peer in connected))
        yield each

    def _refused(self) -> Iterator[Metric]:
        node = self._node
        found = node.reasons + node.refusals.reasons
        reasons = Total("coterie_refused", "Frames and vectors refused, by reason.", labels=("reason",))
        for reason, count in found.most_common(_REASONS):
            reasons.add_metric((reason,), count)
        yield reasons
        refused = node.dropped + node.refusals.refused
        senders = Total("coterie_refused_of_member", "The same, by sender.", labels=("member",))
        for peer in node.roster.membership.members:
            if peer in refused:
                senders.add_metric((short_name(peer),), refused[peer])
        yield senders

    def _jobs(self) -> Metric:
        found = SummaryMetricFamily("coterie_job_seconds", "Time in jobs: fit, aggregate, evaluate.", labels=("job",))
        for job, (count, seconds) in sorted(self._node.part.jobs.items()):
            found.add_metric((job,), count_value=count, sum_value=seconds)
        return found
