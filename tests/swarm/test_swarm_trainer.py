"""The Hugging Face Trainer in a swarm: the whole model, and the end that the swarm sets."""

import pytest
import torch
from swarm_meeting import Meeting, together
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from coterie.errors import ModelError
from coterie.swarm.hf import SwarmCallback

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
DATA = [{"input_ids": torch.tensor([i % 7, 1, 2]), "labels": i % 2} for i in range(64)]


def prepared(folder, session, epochs=2, **options):
    """A model and its Trainer. These are made one after another: transformers sets up one accelerator a process."""
    model = BertForSequenceClassification(BertConfig(vocab_size=7, max_position_embeddings=4, num_labels=2, **SIZE))
    settings = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    arguments = TrainingArguments(str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, **settings)
    trainer = Trainer(model, arguments, train_dataset=DATA, callbacks=[SwarmCallback(3, 1, session=session, **options)])
    return model, trainer


def test_the_whole_model_and_its_own_loss(tmp_path):
    meeting = Meeting(2)
    one, here = prepared(tmp_path / "0", meeting.session(), adsValData=DATA[:16], adsValBatchSize=5)
    other, there = prepared(tmp_path / "1", meeting.session(), adsValData=DATA[:16], nodeWeightage=3)
    ended, _ = together(here.train, there.train)
    assert ended.global_step == 16
    first, second = one.state_dict(), other.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert meeting.terms.total_epochs == 2
    assert sorted((weight, epochs) for weight, _, epochs, _ in meeting.checkins[-1]) == [(1, 2), (3, 2)]
    assert [steps for _, steps, _, _ in meeting.checkins[0]] == [3, 3]
    one.eval()
    words, labels = torch.stack([each["input_ids"] for each in DATA[:16]]), torch.tensor([0, 1] * 8)
    loss = one(input_ids=words, labels=labels).loss.item()
    assert [figures.loss for figures in meeting.closed_with] == pytest.approx([loss, loss], rel=1e-5)


def test_when_the_swarm_is_over_the_trainer_stops(tmp_path):
    meeting = Meeting(1, stop_after=2)
    assert prepared(tmp_path, meeting.session(), 50)[1].train().global_step == 6
    assert meeting.rounds == 3


def test_peft_without_an_adapter_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ModelError, match="it has no PEFT adapter"):
        prepared(tmp_path, Meeting(1).session(), hfMode="peft")[1].train()
