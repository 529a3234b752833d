# SPDX-License-Identifier: Apache-2.0
"""Holds what TensorBoard itself reads of a run's event files against metrics.jsonl.

Usage: tensorboard_test.py RUN
"""
import json
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = pathlib.Path(sys.argv[1])
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def scalars(events, tag):
    return [(e.step, e.value) for e in events.Scalars(tag)]


def same(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: TensorBoard reads {found[:5]}..., metrics.jsonl has {wanted[:5]}...")


def compare(events, tag, key, x="step", rows=lines):
    wanted = []
    for line in rows:
        value = line
        for part in key.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            wanted.append((line[x], f32(value)))
    if not wanted:
        sys.exit(f"{key}: not in metrics.jsonl")
    same(tag, scalars(events, tag), wanted)


steps = read(run / "tensorboard")
for tag, key in {
    "train/loss": "loss",
    "train/loss_by_domain/numbers": "domain_loss/numbers",
    "held_out/numbers": "held_out_loss/numbers",
    "train/grad_norm": "grad_norm",
    "train/learning_rate": "learning_rate",
    "train/rollbacks": "rollbacks",
    "data/weight/numbers": "domain_weights/numbers",
    "data/epochs/numbers": "domain_epochs/numbers",
    "router/loss/cv_squared": "router_losses/cv_squared",
    "speed/tokens_per_second": "tokens_per_second",
    "time/forward": "phase_seconds/forward",
    "time/load": "phase_seconds/load",
    "memory/total": "memory_bytes/total",
}.items():
    compare(steps, tag, key)
same("load/max_over_mean_by_layer/01", scalars(steps, "load/max_over_mean_by_layer/01"),
     [(line["step"], f32(line["load_max_over_mean"][1])) for line in lines])

bars = [(e.step, e.histogram_value.bucket) for e in steps.Histograms("load/experts_of_layer/00")]
same("load/experts_of_layer/00", bars,
     [(line["step"], line["expert_load"][0]) for line in lines if "expert_load" in line])

trained = [line for line in lines if "skipped" not in line]
compare(read(run / "tensorboard" / "by_tokens"), "train/loss", "loss", "tokens", trained)
print(f"{len(steps.Tags()['scalars'])} scalars of {len(lines)} steps agree")
