"""A small BERT with a LoRA adapter, trained together with others: ``python lora_swarm.py SITE``.

A digit is a sentence of 20 words: the numbers of its brightest pixels. Nothing is downloaded.
"""

import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from sites import digits
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from coterie.swarm.hf import SwarmCallback


def sentences(x, y):
    brightest = (-x).argsort(axis=1, kind="stable")[:, :20]
    return [{"input_ids": words, "labels": int(label)} for words, label in zip(brightest, y, strict=True)]


def main(site, epochs=8):
    x, y, x_test, y_test = digits(site)
    torch.manual_seed(0)  # the frozen part is the same at all sites, as a downloaded one would be
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=64, max_position_embeddings=20, num_labels=10, initializer_range=0.2, **size)
    trained = {"target_modules": ["query", "value"], "modules_to_save": ["pooler", "classifier"]}
    model = get_peft_model(BertForSequenceClassification(config), LoraConfig(task_type="SEQ_CLS", r=8, **trained))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sentences(x, y),
            eval_dataset=sentences(x_test, y_test),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
            callbacks=[SwarmCallback(syncFrequency=10, minPeers=2, hfMode="peft")],
        )
        trainer.train()
        right = trainer.evaluate()["eval_accuracy"]
    print(f"site {site}: accuracy {right:.4f}")
    return model, right


if __name__ == "__main__":
    main(int(sys.argv[1]))
