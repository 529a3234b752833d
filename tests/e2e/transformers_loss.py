# SPDX-License-Identifier: Apache-2.0
"""Usage: transformers_loss.py FOLDER IDS.jsonl

Whether transformers' class gives a split folder the loss on these documents, each alone, that
split.json says it has, to 1e-5.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

folder, ids = sys.argv[1:]
with open(f"{folder}/split.json") as f:
    report = json.load(f)
ours = report["held_out"]["loss_by_top_k"][str(report["top_k"])]

model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
length = min(512, model.config.max_position_embeddings)
total = labels = 0
with torch.no_grad():
    for line in open(ids):
        document = torch.tensor(json.loads(line)["input_ids"])
        for first in range(0, len(document) - 1, length):
            piece = document[first:first + length + 1][None]
            logits = model(piece[:, :-1]).logits[0].double()
            loss = torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum")
            total += loss.item()
            labels += piece.shape[1] - 1
theirs = total / labels
print(f"{type(model).__name__}: {theirs:.7f} over {labels} tokens; ours: {ours:.7f}")
sys.exit(0 if abs(theirs - ours) < 1e-5 else 1)
