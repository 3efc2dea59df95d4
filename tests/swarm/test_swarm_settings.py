"""The settings of a SwarmCallback: HPE's names and defaults, both spellings, and one clear error for what is wrong."""

import logging
from dataclasses import fields

import numpy as np
import pytest
from torch import nn

import coterie
from coterie.errors import CoterieError, ModelError, NodeError, PluginError, SpecError
from coterie.swarm import opening
from coterie.swarm.settings import Options, Settings

REQUIRED = {"syncFrequency": 128, "minPeers": 3}
HPE = {
    "trainingContract": "defaultbb.cqdb.sml.hpe",
    "useAdaptiveSync": False,
    "adsValData": None,
    "adsValBatchSize": None,
    "checkinModelOnTrainEnd": "snapshot",
    "nodeWeightage": 1,
    "mergeMethod": "mean",
    "totalEpochs": 0,
    "mlPlatform": None,
    "model": None,
    "hfMode": "full",
}
"""Its settings and defaults, in its spelling; the four of loss and metric apart."""
EXAMPLES = {
    "trainingContract": "mnist",
    "useAdaptiveSync": True,
    "adsValData": (1, 2),
    "adsValBatchSize": 32,
    "checkinModelOnTrainEnd": "inactive",
    "nodeWeightage": 100,
    "mergeMethod": "geomedian",
    "totalEpochs": 5,
    "lossFunction": "NLLLoss",
    "lossFunctionArgs": {"reduction": "mean"},
    "metricFunction": "Accuracy",
    "metricFunctionArgs": {"task": "multiclass"},
    "mlPlatform": "PYTORCH",
    "model": 5,
    "hfMode": "peft",
    "logger": logging.getLogger("mine"),
}


def snake(name):
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def read(*positional, **options):
    return Settings.read(positional, options)


def test_defaults_are_hpes():
    settings = read(**REQUIRED)
    for name, default in HPE.items():
        assert getattr(settings, snake(name)) == default, name
    assert settings.functions.loss is settings.functions.metric is None


def test_both_spellings_mean_the_same():
    camel = read(**REQUIRED, **EXAMPLES)
    snaked = read(**{snake(name): value for name, value in (REQUIRED | EXAMPLES).items()})
    assert camel == snaked
    assert camel != read(**REQUIRED)
    assert camel.functions.loss_args == {"reduction": "mean"}
    assert read(128, 3, "mnist") == read(**REQUIRED, training_contract="mnist")


def test_every_setting_is_known_in_both_spellings():
    assert set(HPE) | set(EXAMPLES) | set(REQUIRED) <= set(Options.__annotations__)
    here = {name for name in Options.__annotations__ if name == name.lower()}
    functions = {"loss_function", "loss_function_args", "metric_function", "metric_function_args"}
    assert here == {field.name for field in fields(Settings)} - {"functions"} | functions


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sync_frequency": 5}, "SwarmCallback: sync_frequency: it is given twice, as syncFrequency too"),
        ({"syncFreqency": 5}, "SwarmCallback: syncFreqency: there is no such setting. Did you mean 'syncFrequency'?"),
        ({"node_weight": 5}, "SwarmCallback: node_weight: there is no such setting. Did you mean 'node_weightage'?"),
        ({"syncFrequency": 0}, "SwarmCallback: syncFrequency: it is 0. Give it a whole number of at least 1."),
        ({"syncFrequency": 2.5}, "syncFrequency: it is 2.5"),
        ({"syncFrequency": True}, "syncFrequency: it is True"),
        ({"minPeers": "3"}, "minPeers: it is '3'"),
        ({"nodeWeightage": 101}, "nodeWeightage: it is 101. Give it a whole number from 1 to 100."),
        ({"node_weightage": 0}, "SwarmCallback: node_weightage: it is 0"),
        ({"adsValBatchSize": 0}, "adsValBatchSize: it is 0"),
        ({"totalEpochs": -1}, "totalEpochs: it is -1"),
        ({"trainingContract": ""}, "trainingContract: it is ''"),
        ({"trainingContract": 257 * "a"}, "Give it a name of 1 to 256 characters."),
        ({"useAdaptiveSync": 1, "adsValData": (1, 2)}, "useAdaptiveSync: it is 1. Give it True or False."),
        ({"useAdaptiveSync": True}, "useAdaptiveSync: it needs the losses on held-out data. Give adsValData."),
        ({"checkinModelOnTrainEnd": "snapshoot"}, "it is 'snapshoot'. Did you mean 'snapshot'?"),
        ({"hfMode": "lora"}, "hfMode: it is 'lora'. Known: full, peft."),
        ({"mergeMethod": "geomedain"}, "unknown rule 'geomedain'. Did you mean 'geomedian'?"),
        ({"mergeMethod": 3}, "mergeMethod: it is a int"),
        ({"lossFunction": 3}, "lossFunction: it is a int"),
        ({"lossFunctionArgs": {"a": 1}}, "lossFunctionArgs: there is no function to give them to"),
        ({"metricFunction": "accuracy", "metricFunctionArgs": [1]}, "metricFunctionArgs: it is [1]"),
        ({"mlPlatform": "CAFFE"}, "mlPlatform: unknown platform 'CAFFE'"),
        ({"logger": print}, "logger: it is a builtin_function_or_method"),
        ({"home": 3}, "home: it is a int"),
    ],
)
def test_what_is_wrong_is_named_as_the_user_spelled_it(options, says):
    with pytest.raises(CoterieError) as caught:
        read(**(REQUIRED | options))
    assert isinstance(caught.value, SpecError)
    assert says in str(caught.value)


def test_what_is_missing_is_named():
    with pytest.raises(SpecError, match=r"minPeers: it is required"):
        read(128)
    with pytest.raises(SpecError, match=r"4 arguments without a name"):
        read(1, 2, "a", 4)


@pytest.mark.parametrize("merge", ["mean", "coordmedian", "geomedian", "trimmed_mean", "krum", lambda *args: args])
def test_merges(merge):
    assert read(**REQUIRED, mergeMethod=merge).merge_method is merge


def test_a_merge_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def rule(own, received, context, state, judge): ...\n")
    assert read(**REQUIRED, merge_method="own.py:rule").merge_method == "own.py:rule"
    with pytest.raises(PluginError, match=r"own.py has no function 'rules'. Did you mean 'rule'"):
        read(**REQUIRED, merge_method="own.py:rules")


def test_whole_numbers_of_numpy():
    assert read(np.int64(7), np.int32(2)) == read(7, 2)


def test_the_weight_may_be_changed_in_between():
    callback = coterie.SwarmCallback(**REQUIRED, nodeWeightage=4)
    assert callback.node_weightage == callback.nodeWeightage == 4
    callback.nodeWeightage = 9
    assert callback.node_weightage == 9
    with pytest.raises(SpecError, match=r"nodeWeightage: it is 101"):
        callback.node_weightage = 101


def test_a_callback_for_the_wrong_loop():
    callback = coterie.SwarmCallback(**REQUIRED, model=nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"from coterie.swarm.keras import SwarmCallback"):
        callback.set_params({})
    with pytest.raises(ModelError, match=r"from coterie.swarm.hf import SwarmCallback"):
        callback.on_init_end(None, None, None)


class TestWhereTheFederationIs:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path, monkeypatch):
        monkeypatch.delenv("COTERIE_HOME", raising=False)
        monkeypatch.delenv("COTERIE_INVITATION", raising=False)
        monkeypatch.chdir(tmp_path)

    def home(self, path):
        path.mkdir(exist_ok=True)
        (path / "node.toml").write_text("")
        return path

    def test_nowhere(self):
        callback = coterie.SwarmCallback(**REQUIRED, model=nn.Linear(2, 2))
        with pytest.raises(NodeError, match=r"belongs to no federation. Set COTERIE_HOME .* SWARM_LOOPBACK=True"):
            callback.on_train_begin()

    def test_the_order(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COTERIE_INVITATION", "coterie1xyz")
        assert opening.find(None) == opening.Federation(tmp_path / "coterie-home", "coterie1xyz")
        made = self.home(tmp_path / "coterie-home")
        assert opening.find(None) == opening.Federation(made)
        here = self.home(tmp_path)
        assert opening.find(None) == opening.Federation(home=here)
        named = tmp_path / "named"
        monkeypatch.setenv("COTERIE_HOME", str(named))
        assert opening.find(None) == opening.Federation(named, "coterie1xyz")
        self.home(named)
        assert opening.find(None) == opening.Federation(home=named)
        given = self.home(tmp_path / "given")
        assert opening.find(given) == opening.Federation(home=given)

    def test_a_folder_that_is_no_home(self, tmp_path, monkeypatch):
        with pytest.raises(NodeError, match=r"SwarmCallback: home: .* is no node's home"):
            opening.find(tmp_path)
        monkeypatch.setenv("COTERIE_HOME", str(tmp_path))
        with pytest.raises(NodeError, match=r"COTERIE_HOME: .* is no node's home"):
            opening.find(None)
