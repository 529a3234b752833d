#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The reports of run.sh as one table. Usage: table.py FOLDER"""

import json
import sys
from pathlib import Path

reports = []
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    reports.append(json.loads(path.read_text()) | {"title": path.stem.rsplit("-", 1)[0]})
chosen = [1, 2, 3, 4, 6, 8, 12, 16]


def label(report):
    shared = f"{report['shared_experts']} + " if report["shared_experts"] else ""
    return f"{shared}{report['experts']}"


def loss(report, k):
    value = report["held_out"]["loss_by_top_k"].get(str(k))
    return f"{value:.3f}" if value is not None else ""


for total in (8, 16):
    rows = [r for r in reports if r["experts"] + r["shared_experts"] == total]
    rows.sort(key=lambda r: r["held_out"]["loss_by_top_k"]["2"])
    ks = [k for k in chosen if k <= total]
    dense = rows[0]["held_out"]["dense_loss"]
    print(f"{total} experts, dense loss {dense:.3f}:\n")
    print("| method | experts | gate | scale | " + " | ".join(f"k = {k}" for k in ks) + " |")
    print("|---|---|---|---|" + "---|" * len(ks))
    for r in rows:
        cells = [r["title"], label(r), r["gate"], r["scale_rule"]] + [loss(r, k) for k in ks]
        print("| " + " | ".join(cells) + " |")
    print()
