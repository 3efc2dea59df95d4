"""The spec: what is accepted, what is refused and how that is said, and what the hash covers."""

import datetime
import re

import pytest
import tomli_w

import coterie.runtime.catalog  # noqa: F401 - fills the registries
from coterie import registry
from coterie.errors import PluginError, SpecError
from coterie.spec import TABLES, Spec, load

PLUGINS = '''
from typing import Annotated
from pydantic import Field

def net(*, width: Annotated[int, Field(ge=1, le=64)] = 8, names: list[str] | None = None):
    """A net."""

def rule(own, received, context, state, judge, *, gate: float = 2.0):
    """A rule."""

async def talk(peer, rounds, *, pause: float = 1.0, most: int | None = None, when=1):
    """A protocol."""

async def run(peer, rounds):
    """A protocol with an unfortunate name."""
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Paths in a spec made of tables start from the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


def refused(tables, *, where, what="", remedy="", sets=(), kind=SpecError):
    with pytest.raises(SpecError) as caught:
        load(tables, sets)
    error = caught.value
    assert type(error) is kind
    assert error.where == where
    assert re.search(what, error.what), error.what
    assert remedy in error.remedy
    assert error.exit_status == 2
    return error


def table(name, /, **content):
    """A spec with one table, and what it needs."""
    required = {"attack": {"kind": "label_flip"}, "matrix": {"rules": ["mean"]}}
    return {name: {**required.get(name, {}), **content}}


# What is accepted


def test_defaults():
    spec = load()
    assert isinstance(spec, Spec)
    assert (spec.federation.name, spec.protocol.component.name, spec.dataset.name) == ("digits", "gossip", "digits")
    assert spec.attack is None
    assert set(spec.choices) == {"data", "model", "aggregation", "topology"}
    assert spec.seeds == (spec.seed,)
    assert spec.hash == load({}).hash == load({name: {} for name in TABLES if name not in ("attack", "matrix")}).hash


def test_values_and_settings_reach_the_spec():
    spec = load(
        {
            "federation": {"protocol": "gossip", "peers": 5, "seed": 3},
            "data": {"partition": "dirichlet", "alpha": 2, "root": 50},
            "model": {"name": "mlp", "hidden": [4]},
            "topology": {"kind": "regular", "degree": 2},
            "attack": {"kind": "label_flip", "fraction": 0, "map": {"1": 2}},
            "gossip": {"fanout": 2},
            "faults": {"partitions": [{"at": 1, "seconds": 2.5, "groups": [[0, 1], [2]]}]},
        }
    )
    assert (spec.federation.peers, spec.seed, spec.data.root, spec.attack.fraction) == (5, 3, 50, 0.0)
    assert spec.choices["data"].settings == {"alpha": 2.0}
    assert spec.choices["model"].settings["hidden"] == [4]
    assert spec.choices["topology"].settings == {"degree": 2}
    assert spec.choices["attack"].settings == {"map": {"1": 2}}
    assert spec.protocol.settings["fanout"] == 2
    assert spec.faults.partitions[0].groups == [[0, 1], [2]]
    assert len(spec.choices["topology"](5, 1)) == 5


def test_local_steps():
    assert load().local_steps == 10
    assert load({"training": {"local_steps": 3}}).local_steps == 3
    assert load({"training": {"local_epochs": 2}}).local_steps is None
    refused({"training": {"local_steps": 3, "local_epochs": 2}}, where="training", what="local_steps or local_epochs")


def test_another_optimizer_needs_no_other_key():
    assert load({"training": {"optimizer": "adam"}}).training.quasi_global_momentum == 0
    refused(
        {"training": {"optimizer": "adam", "quasi_global_momentum": 0.5}},
        where="training",
        what="quasi_global_momentum goes with",
    )


def test_a_list_of_seeds():
    spec = load({"federation": {"seed": [3, 4]}})
    assert (spec.seed, spec.seeds) == (3, (3, 4))
    assert spec.hash == load({"federation": {"seed": 3}}).hash
    assert [one.seed for one in spec.each_seed()] == [3, 4]
    assert [one.seeds for one in spec.each_seed()] == [(3,), (4,)]
    assert load(spec).seeds == spec.with_values({"federation.peers": 5}).seeds == (3, 4)
    assert load(spec, seeds=[5, 6]).seeds == (5, 6)
    with pytest.raises(SpecError, match=r"federation\.seed: \[5, 5\] is not a list of different seeds"):
        load(spec, seeds=[5, 5])
    for seeds in ([], [3, 3]):
        refused({"federation": {"seed": seeds}}, where="federation.seed", what="list of different seeds")
    for seeds in ([3, -1], [3, "4"], [3, True]):
        refused({"federation": {"seed": seeds}}, where="federation.seed", what="Input should be")


def test_one_file_serves_several_protocols():
    spec = load({"federation": {"protocol": "isolated"}, "gossip": {"fanout": 2}})
    assert spec.protocol.component.name == "isolated"
    assert "gossip" not in spec.resolved()
    error = refused({"federation": {"protocol": "isolated"}, "gossip": {"fanuot": 2}}, where="gossip.fanuot")
    assert error.remedy == "Did you mean 'fanout'?"
    refused({"federation": {"protocol": "isolated"}, "gossip": {"fanout": 0}}, where="gossip.fanout", what="greater")


def test_with_values():
    spec = load({"federation": {"peers": 5}, "data": {"alpha": 2.0}})
    other = spec.with_values({"federation.seed": 99, "data.alpha": 3.0})
    assert (other.seed, other.federation.peers, other.choices["data"].settings["alpha"]) == (99, 5, 3.0)
    assert (spec.seed, spec.choices["data"].settings["alpha"]) == (load().seed, 2.0)
    assert load(spec).hash == spec.hash
    assert load(spec, ["federation.seed=99", "data.alpha=3"]).hash == other.hash
    with pytest.raises(SpecError, match="unknown key"):
        spec.with_values({"federation.sed": 1})


# What is refused


@pytest.mark.parametrize("name", [*TABLES, "gossip"])
def test_unknown_keys(name):
    known = next(iter(TABLES[name].model_fields)) if name in TABLES else "fanout"
    refused(table(name, zzz=1), where=f"{name}.zzz", what="unknown key", remedy=known)
    refused(table(name, **{f"{known}x": 1}), where=f"{name}.{known}x", what="unknown key", remedy=f"mean {known!r}?")


@pytest.mark.parametrize(
    ("name", "near", "meant"),
    [
        ("data", "alhpa", "alpha"),
        ("aggregation", "gte", "gate"),
        ("model", "hiden", "hidden"),
        ("attack", "mapp", "map"),
    ],
)
def test_unknown_keys_near_a_setting_of_the_component(name, near, meant):
    refused(table(name, **{near: 1}), where=f"{name}.{near}", what="unknown key", remedy=f"Did you mean {meant!r}?")


def test_a_setting_of_another_component():
    refused({"data": {"partition": "iid", "alpha": 0.5}}, where="data.alpha", what="unknown key")
    refused({"topology": {"degree": 4}}, where="topology.degree", what="unknown key")


def test_unknown_key_in_a_list_of_tables():
    fault = {"at": 1, "seconds": 2, "groups": [], "until": 3}
    refused({"faults": {"partitions": [fault]}}, where="faults.partitions.0.until", what="unknown key", remedy="Remove")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("federation.peers", "10"),
        ("federation.peers", 10.0),
        ("federation.peers", True),
        ("federation.name", 3),
        ("federation.protocol", ["gossip"]),
        ("data.samples_per_peer", "all"),
        ("data.validation", "0.1"),
        ("data.alpha", "small"),
        ("model.hidden", 64),
        ("model.hidden", ["64"]),
        ("training.lr", "0.1"),
        ("training.lr", True),
        ("training.schedule", 1),
        ("network.loss", [0.1]),
        ("faults.partitions", {"at": 1}),
        ("run.oracle", 1),
        ("run.oracle", "true"),
        ("attack.fraction", "all"),
        ("gossip.fanout", "3"),
        ("gossip.fanout", datetime.date(2020, 1, 1)),
    ],
)
def test_wrong_types(where, value):
    name, _, key = where.partition(".")
    with pytest.raises(SpecError) as caught:
        load(table(name, **{key: value}))
    assert caught.value.where.startswith(where)
    assert "Input should be" in caught.value.what
    assert "got " in caught.value.what


@pytest.mark.parametrize(
    ("where", "bad", "good"),
    [
        ("federation.peers", 0, 1),
        ("federation.rounds", 0, 1),
        ("federation.seed", -1, 0),
        ("federation.name", "", "a"),
        ("federation.name", "../up", "a.b-c_d"),
        ("federation.name", "a" * 65, "a" * 64),
        ("data.validation", 1, 0.99),
        ("data.validation", -0.1, 0),
        ("data.samples_per_peer", 0, 1),
        ("data.root", -1, 0),
        ("data.alpha", 0, 0.001),
        ("training.lr", 0, 1e-9),
        ("training.momentum", 1.0, 0.999),
        ("training.clip", -1e-9, 0),
        ("training.lr_floor", 1.1, 1),
        ("training.optimizer", "sdg", "sgd"),
        ("training.schedule", "none", "constant"),
        ("training.batch_size", 0, 1),
        ("training.local_steps", 0, 1),
        ("training.local_epochs", 0, 1),
        ("attack.fraction", 1.0, 0.9),
        ("compute.seconds_per_step", -1, 0),
        ("network.latency_ms", -1, 0),
        ("network.bandwidth_mbps", 0, 0.1),
        ("network.loss", 1.0, 0.9),
        ("faults.restart_seconds", 0, 0.1),
        ("evaluation.every", 0, 1),
        ("evaluation.samples", 0, 1),
        ("gossip.fanout", 0, 1),
        ("gossip.warmup", -1, 0),
        ("aggregation.gate", 0.9, 1),
        ("aggregation.memory", 1, 0),
    ],
)
def test_bounds(where, bad, good):
    name, _, key = where.partition(".")
    refused(table(name, **{key: bad}), where=where, what=re.escape(repr(bad)))
    load(table(name, **{key: good}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "where", ["training.lr", "training.clip", "data.alpha", "network.latency_ms", "attack.fraction", "aggregation.gate"]
)
def test_numbers_are_finite(where, value):
    name, _, key = where.partition(".")
    refused(table(name, **{key: value}), where=where)


@pytest.mark.parametrize(
    ("where", "near", "meant"),
    [
        ("federation.protocol", "gosip", "gossip"),
        ("data.dataset", "digit", "digits"),
        ("data.partition", "dirichelt", "dirichlet"),
        ("model.name", "mpl", "mlp"),
        ("training.loss", "cross-entropy", "cross_entropy"),
        ("aggregation.rule", "clip_and_trsut", "clip_and_trust"),
        ("topology.kind", "regulr", "regular"),
        ("attack.kind", "label-flip", "label_flip"),
    ],
)
def test_unknown_components(where, near, meant):
    name, _, key = where.partition(".")
    refused({name: {key: near}}, where=where, what=f"unknown .*{near!r}", remedy=f"Did you mean {meant!r}?")
    refused({name: {key: "zzzz"}}, where=where, what="unknown .*'zzzz'", remedy=meant)


def test_tables():
    refused({"trainig": {}}, where="trainig", what=r"unknown table \[trainig\]", remedy="Did you mean 'training'?")
    refused({"swrm": {}}, where="swrm", what="unknown table")
    refused({"training": 3}, where="training", what="must be a table, not 3", remedy="Write [training]")
    refused({"gossip": [1]}, where="gossip", what="must be a table")
    refused({"federation": None}, where="federation", what="must be a table")
    refused({"attack": {"fraction": 0.1}}, where="attack.kind", what="required", remedy="Add it.")
    refused(
        {"topology": {"kind": "edges"}}, where="topology.edges", what="required", remedy="Add it."
    )  # a setting without a default


def test_what_only_python_can_write():
    refused({"gossip": {"fanout": None}}, where="gossip.fanout", what="None", remedy="Leave the key out.")
    refused({"gossip": {1: 2}}, where="gossip.1", what="unknown key")
    refused({"data": {1: 2}}, where="data.1", what="unknown key")
    refused({"federation": {1: 2}}, where="federation.1", what="unknown key")
    refused({1: {}}, where="1", what="unknown table")


# Assignments


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("federation.peers=5", 5),
        (" federation.peers = 5 ", 5),
        ("federation.peers=5 # five", 5),
        ("federation.name=mine", "mine"),
        ('federation.name="mine"', "mine"),
        ("federation.name='true'", "true"),
        ("federation.name=1.2.3", "1.2.3"),
        ("training.lr=1e-2", 0.01),
        ("training.lr=1", 1.0),
        ("training.optimizer=adam", "adam"),
        ("run.oracle=true", True),
        ("data.dataset=csv:a=b.csv", "csv:a=b.csv"),
    ],
)
def test_set(text, value):
    name, _, key = text.partition("=")[0].strip().partition(".")
    found = getattr(getattr(load({}, [text]), name), key)
    assert found == value
    assert type(found) is type(value)


def test_set_reaches_components_and_protocols():
    spec = load({"data": {"alpha": 3.0}}, ["data.alpha=2", "gossip.fanout=5", "model.hidden=[3, 4]"])
    assert spec.choices["data"].settings == {"alpha": 2.0}
    assert spec.protocol.settings["fanout"] == 5
    assert spec.choices["model"].settings["hidden"] == [3, 4]
    spec = load({}, ["attack.kind=label_flip", "attack.map={1 = 2}", "federation.peers=4", "federation.peers=6"])
    assert spec.choices["attack"].settings == {"map": {"1": 2}}
    assert spec.federation.peers == 6


def test_set_leaves_the_tables_alone():
    tables = {"federation": {"peers": 5}}
    assert load(tables, ["federation.peers=6", "training.lr=0.5"]).federation.peers == 6
    assert tables == {"federation": {"peers": 5}}


def test_another_component_takes_no_settings_of_the_one_before():
    tables = {"data": {"partition": "dirichlet", "alpha": 3.0, "validation": 0.2}}
    spec = load(tables, ["data.partition=iid"])
    assert (dict(spec.choices["data"].settings), spec.data.validation) == ({}, 0.2)
    assert load(tables, ["data.partition=dirichlet"]).choices["data"].settings == {"alpha": 3.0}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("federation.peers", "has no '='"),
        ("", "has no '='"),
        ("=3", "is not a key"),
        ("peers=3", "is not a key"),
        (".peers=3", "is not a key"),
        ("federation.=3", "is not a key"),
        ("attack.map.1=3", "is not a key"),
    ],
)
def test_bad_assignments(text, what):
    refused({}, sets=[text], where="--set", what=what, remedy="Write")


def test_wrong_values_in_assignments():
    refused({}, sets=["federation.peers=many"], where="federation.peers", what="'many'")
    refused({}, sets=["federation.peers="], where="federation.peers", what="''")
    refused({}, sets=["training.lr=nan"], where="training.lr")
    refused({}, sets=["federation.per=3"], where="federation.per", remedy="peers")
    refused({}, sets=["federation.peers=" + "[" * 5000], where="federation.peers")


# Files


def test_a_file(tmp_path):
    path = tmp_path / "inner" / "fed.toml"
    path.parent.mkdir()
    (path.parent / "mine.py").write_text(PLUGINS.replace("= 8", "= 9"))
    path.write_text('[federation]\nname = "e"\n[model]\nname = "mine.py:net" # ü\n', "utf-8")
    for source in (path, str(path), "inner/fed.toml"):
        spec = load(source, ["federation.peers=4"])
        assert spec.base == path.parent
        assert (spec.federation.name, spec.federation.peers) == ("e", 4)
        assert spec.choices["model"].settings["width"] == 9
    path.write_bytes(b"\xef\xbb\xbf[federation]\r\npeers = 3\r\n")  # as an editor on Windows may save it
    assert load(path).federation.peers == 3


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(SpecError, match=r"there is no file missing\.toml\. Make one with 'coterie new NAME'"):
        load("missing.toml")
    (tmp_path / "trial.toml").write_text("")
    with pytest.raises(SpecError, match=r"there is no file .*trial\. Did you mean .*trial\.toml\?$"):
        load(tmp_path / "trial")
    (tmp_path / "bad.toml").write_text("[federation]\npeers = = 3\n")
    with pytest.raises(SpecError, match=r"^bad.toml: not valid TOML: .*line 2.* Correct that line\.$"):
        load("bad.toml")
    (tmp_path / "twice.toml").write_text("[federation]\npeers = 3\npeers = 4\n")
    with pytest.raises(SpecError, match=r"twice\.toml: not valid TOML"):
        load("twice.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(SpecError, match=r"deep\.toml: not valid TOML"):
        load("deep.toml")
    (tmp_path / "latin.toml").write_bytes('[federation]\nname = "é"\n'.encode("latin-1"))
    with pytest.raises(SpecError, match=r"^latin\.toml: cannot be read: .*utf-8"):
        load("latin.toml")
    with pytest.raises(SpecError, match=r"cannot be read: .*directory.* Name a TOML file\."):
        load(tmp_path)
    with pytest.raises(SpecError, match="cannot be read: embedded null"):
        load("a\0b")


# The hash

VARIED = {
    "federation": {"peers": 6, "seed": 11},
    "data": {"partition": "dirichlet", "alpha": 0.7, "samples_per_peer": 50},
    "topology": {"kind": "regular", "degree": 2},
    "attack": {"kind": "label_flip"},
    "training": {"lr": 0.5, "local_epochs": 1},
    "gossip": {"fanout": 2},
}


def changed(**tables):
    return load({name: {**VARIED.get(name, {}), **tables.get(name, {})} for name in {**VARIED, **tables}}).hash


def test_hash_is_a_sha256_that_stays():
    assert re.fullmatch("[0-9a-f]{64}", load().hash)
    assert load(VARIED).hash == load(VARIED).hash == changed()


def test_hash_ignores_order_and_spelling():
    turned = {name: dict(reversed(content.items())) for name, content in reversed(VARIED.items())}
    assert load(turned).hash == changed()
    assert changed(federation={"name": "digits", "protocol": "gossip"}) == changed()  # the defaults, written out
    assert changed(training={"weight_decay": 0}) == changed(training={"weight_decay": 0.0}) == changed()
    assert changed(fedavg={}) == changed()
    one, other = ({"map": dict(pairs)} for pairs in ([("0", 1), ("2", 3)], [("2", 3), ("0", 1)]))
    assert changed(attack=one) == changed(attack=other) != changed()


@pytest.mark.parametrize(
    "tables",
    [
        {"compute": {"seconds_per_step": 3.0}},
        {"compute": {"spread": 0.0}},
        {"network": {"latency_ms": 1.0, "loss": 0.1}},
        {"faults": {"crashes_per_minute": 1.0, "partitions": [{"at": 1, "seconds": 1, "groups": [[0]]}]}},
        {"evaluation": {"every": 3, "samples": 9}},
    ],
)
def test_hash_leaves_out_how_it_is_simulated(tables):
    assert changed(**tables) == changed()


@pytest.mark.parametrize(
    "tables",
    [
        {"federation": {"name": "other"}},
        {"federation": {"protocol": "fedavg"}},
        {"federation": {"peers": 8}},
        {"federation": {"rounds": 7}},
        {"federation": {"seed": 12}},
        {"data": {"dataset": "breast_cancer"}},
        {"data": {"alpha": 0.8}},
        {"data": {"samples_per_peer": 51}},
        {"data": {"validation": 0.2}},
        {"data": {"root": 5}},
        {"model": {"hidden": [5]}},
        {"training": {"lr": 0.4}},
        {"training": {"local_epochs": 2}},
        {"training": {"batch_size": 5}},
        {"training": {"loss": "mse"}},
        {"aggregation": {"rule": "mean"}},
        {"aggregation": {"gate": 2.0}},
        {"topology": {"degree": 3}},
        {"attack": {"fraction": 0.2}},
        {"attack": {"map": {"1": 2}}},
        {"gossip": {"fanout": 1}},
        {"run": {"oracle": True}},
    ],
)
def test_hash_covers_what_the_federation_is(tables):
    assert changed(**tables) != changed()


def test_no_two_changes_give_one_hash():
    hashes = [load().hash, changed(), *(changed(federation={"seed": seed}) for seed in range(5))]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("name", "key", "function"),
    [("model", "name", "net"), ("aggregation", "rule", "rule"), ("federation", "protocol", "talk")],
)
def test_hash_covers_plugins_by_content_and_by_name(tmp_path, name, key, function):
    tables = {name: {key: f"mine.py:{function}"}}
    before = load(tables).hash
    assert load(tables).hash == before
    (tmp_path / "mine.py").write_text(PLUGINS + "# changed\n")
    assert load(tables).hash != before
    (tmp_path / "mine.py").write_text(PLUGINS)
    assert load(tables).hash == before
    (tmp_path / "mine.py").rename(tmp_path / "other.py")
    assert load({name: {key: f"other.py:{function}"}}).hash != before


def test_hash_is_the_same_in_another_folder(tmp_path, monkeypatch):
    tables = {"model": {"name": "mine.py:net"}, "data": {"dataset": "csv:a.csv"}}
    before = load(tables).hash
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.py").write_text(PLUGINS)
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = load(tables)
    assert spec.base == tmp_path / "elsewhere"
    assert spec.hash == before


# What is written into a run directory


@pytest.mark.parametrize(
    "tables",
    [
        {},
        VARIED,
        {"federation": {"protocol": "isolated"}},
        {"federation": {"seed": [5, 6]}, "training": {"optimizer": "adam"}},
        {"model": {"name": "mine.py:net", "width": 3}, "aggregation": {"rule": "mine.py:rule"}},
        {"federation": {"protocol": "mine.py:talk"}},
        {
            "federation": {"protocol": "mine.py:talk"},
            "talk": {"pause": 3, "most": 2, "when": datetime.date(2020, 1, 1)},
        },
        {"topology": {"kind": "edges", "edges": [[0, 1], [1, 2]]}},
        {"faults": {"partitions": [{"at": 1, "seconds": 1, "groups": [[0], [1, 2]]}]}, "network": {"loss": 0.25}},
        {"attack": {"kind": "label_flip", "map": {"0": 3}}, "run": {"oracle": True}},
    ],
)
def test_the_resolved_spec_loads_to_the_same(tmp_path, tables):
    spec = load(tables)
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(spec.resolved()), "utf-8")
    again = load(tmp_path / "spec.toml")
    assert tomli_w.dumps(again.resolved()) == tomli_w.dumps(spec.resolved())
    assert again.hash == spec.hash
    assert (again.compute, again.network, again.faults) == (spec.compute, spec.network, spec.faults)


def test_the_resolved_spec_says_everything():
    resolved = load().resolved()
    assert set(resolved) == {*TABLES, "gossip"} - {"attack", "matrix"}
    assert resolved["data"]["alpha"] == 0.5
    assert resolved["training"]["local_steps"] == 10
    assert set(resolved["gossip"]) == set(registry.protocols.resolve("gossip", None, "").options().model_fields)


# Plug-ins


def test_settings_of_plugins():
    assert load({"model": {"name": "mine.py:net"}}).choices["model"].settings == {"width": 8, "names": None}
    refused({"model": {"name": "mine.py:net", "width": 65}}, where="model.width", what="less than or equal to 64")
    refused({"model": {"name": "mine.py:net", "widht": 6}}, where="model.widht", remedy="Did you mean 'width'?")
    refused({"aggregation": {"rule": "mine.py:rule", "gate": "3"}}, where="aggregation.gate", what="valid number")
    spec = load({"federation": {"protocol": "mine.py:talk"}, "talk": {"pause": 3}})
    assert spec.protocol.settings == {"pause": 3.0, "most": None, "when": 1}
    refused({"federation": {"protocol": "mine.py:talk"}, "talk": {"puase": 3}}, where="talk.puase", remedy="pause")
    refused({"talk": {"pause": 3}}, where="talk", what="unknown table")


def test_plugins_that_cannot_be_used():
    refused({"model": {"name": "no.py:net"}}, where="model.name", what="there is no file", kind=PluginError)
    refused({"data": {"dataset": "mine.py:no"}}, where="data.dataset", what="has no function 'no'", kind=PluginError)
    refused(
        {"federation": {"protocol": "mine.py:run"}}, where="federation.protocol", what="'run'", remedy="Rename"
    )  # its table would be [run]
