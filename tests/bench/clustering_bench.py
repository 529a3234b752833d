#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What balanced clustering costs without moe-split: scikit-learn's k-means of a layer's normalised rows,
then one exact assignment to clusters of one size (OR-tools' minimum-cost flow).

    tests/bench/clustering_bench.py FOLDER [--experts 16] [--starts 10] [--layer 0]

FOLDER: a dense model in bf16, as tests/bench/split_bench.py makes. Needs numpy, scikit-learn, ortools.
Compare with `moe-split --method clustering`, whose table has the same inertia.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ortools.graph.python import min_cost_flow
from sklearn.cluster import KMeans


def bf16_matrix(file: Path, name: str) -> np.ndarray:
    with open(file, "rb") as source:
        length = int.from_bytes(source.read(8), "little")
        entry = json.loads(source.read(length))[name]
        begin, end = entry["data_offsets"]
        source.seek(8 + length + begin)
        halves = np.frombuffer(source.read(end - begin), dtype=np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def balanced(distances: np.ndarray) -> np.ndarray:
    """Labels of least total distance, every cluster with as many rows."""
    rows, clusters = distances.shape
    flow = min_cost_flow.SimpleMinCostFlow()
    row = np.repeat(np.arange(rows), clusters)
    cluster = rows + np.tile(np.arange(clusters), rows)
    cost = np.round(distances * 1e6).astype(np.int64).ravel()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(row, cluster, np.ones(rows * clusters), cost)
    flow.set_nodes_supplies(np.arange(rows), np.ones(rows))
    flow.set_nodes_supplies(rows + np.arange(clusters), np.full(clusters, -rows // clusters))
    assert flow.solve() == flow.OPTIMAL
    return flow.flows(arcs).reshape(rows, clusters).argmax(1)


def inertia(x: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    return float(sum(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum() for c in range(clusters)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--layer", type=int, default=0)
    args = parser.parse_args()
    x = bf16_matrix(args.folder / "model.safetensors", f"model.layers.{args.layer}.mlp.up_proj.weight")
    x = x / np.linalg.norm(x, axis=1, keepdims=True)

    start = time.perf_counter()
    found = KMeans(args.experts, n_init=args.starts, random_state=0).fit(x)
    means = time.perf_counter()
    labels = balanced(found.transform(x) ** 2)
    end = time.perf_counter()
    print(f"k-means of {args.starts} starts: {means - start:.1f} s, inertia {found.inertia_:.1f}; "
          f"then one exact assignment: {end - means:.1f} s, inertia {inertia(x, labels, args.experts):.1f}")


if __name__ == "__main__":
    main()
