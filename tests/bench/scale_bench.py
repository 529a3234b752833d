#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How time and memory of training grow with ranks, experts, sequence and layers, by runs of
moe-train itself.

    scale_bench.py --build build/cpu [--rounds 3] [--output FILE] [TABLE...]
    scale_bench.py --print FILE...

Runs alternate round by round; a figure is the median over rounds of the median step of a run, the
first two steps left out. --output: the raw figures, one JSON object a run, which --print makes
tables of. What is expected of a step follows from its FLOPs alone (3 x forward, of what is active:
projections, attention's causal half, router, chosen experts, head) and from the processors that
ranks and threads can have.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

MODEL = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "layers": 8, "heads": 8,
         "experts": 8, "top_k": 2, "gate": "linear", "gate_noise": False, "max_positions": 4096}


def make_data(build, folder):
    source = folder / "ids.jsonl"
    rng = random.Random(1)
    with open(source, "w") as out:
        for _ in range(64):
            ids = [rng.randrange(2, MODEL["vocab_size"]) for _ in range(8192)]
            out.write(json.dumps({"input_ids": ids}) + "\n")
    shard = folder / "train.h5"
    subprocess.run([build / "moe-data", "build", "--tokenized", source, "--vocab-size",
                    str(MODEL["vocab_size"]), "--domain", "a", "--output", shard], check=True,
                   stdout=subprocess.DEVNULL)
    return shard


class Bench:
    def __init__(self, build, output):
        self.build = pathlib.Path(build).resolve()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.shard = make_data(self.build, self.folder)
        self.output = open(output, "w") if output else None
        self.runs = 0

    def run(self, table, ranks, threads, steps, length=512, sequences=4, micro=None, parallel=None,
            **model):
        """Medians of one run, of the steps after the second."""
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        config = {
            "run": {"folder": str(folder), "threads": threads, "log_every": 1000},
            "model": {**MODEL, **model},
            "data": {"sequence_length": length,
                     "train": [{"domain": "a", "files": [str(self.shard)]}]},
            "batch": {"global": sequences, "micro": micro or max(1, sequences // ranks)},
            "train": {"steps": steps},
            "parallel": parallel or {},
        }
        path = self.folder / f"run-{self.runs}.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMP_WAIT_POLICY": "passive",
                       "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        command = [str(self.build / "moe-train"), "--config", str(path)]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] + command
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            sys.exit(f"{table}: exit code {done.returncode}\n{done.stderr}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steady = lines[2:]
        step = statistics.median(m["step_seconds"] for m in steady)
        result = {
            "table": table, "cores": os.cpu_count(), "ranks": ranks, "threads": threads, "length": length,
            "sequences": sequences, "model": model, "parallel": parallel or {}, "steps": steps,
            "tokens_per_second": statistics.median(m["tokens_per_second"] for m in steady),
            "step_seconds": step,
            "exposed_share": statistics.median(m["exposed_comm_seconds"] for m in steady) / step,
            "memory_bytes": lines[-1]["memory_bytes"]["total"],
        }
        if self.output:
            self.output.write(json.dumps(result) + "\n")
            self.output.flush()
        return result


TABLES = {
    "ranks": [dict(ranks=n, threads=1, sequences=8, micro=1) for n in (1, 2, 4, 8)],
    "experts": [dict(ranks=1, threads=2, experts=e, intermediate_size=256 * e, layers=2)
                for e in (4, 8, 16, 32, 64)],
    "sequence": [dict(ranks=1, threads=2, length=n, sequences=8192 // n, micro=8192 // n, layers=2)
                 for n in (256, 512, 1024, 2048, 4096)],
    "layers": [dict(ranks=1, threads=2, layers=n) for n in (2, 4, 8, 16)],
}
TITLES = {
    "ranks": "ranks of one thread, EP = 1, ZeRO, 8 sequences a step",
    "experts": "experts of 256 neurons, 2 a token, 2 layers",
    "sequence": "sequence length, 8192 tokens a step, 2 layers",
    "layers": "layers",
}
COLUMNS = {"ranks": lambda r: r["ranks"], "experts": lambda r: r["model"]["experts"],
           "sequence": lambda r: r["length"], "layers": lambda r: r["model"]["layers"]}


def flops(run):
    """Of one step, in forward and backward."""
    m = {**MODEL, **run["model"]}
    hidden, tokens = m["hidden_size"], run["sequences"] * run["length"]
    expert = m["intermediate_size"] // m["experts"]
    layer = (8 * hidden**2 + 2 * run["length"] * hidden + 2 * hidden * m["experts"]
             + m["top_k"] * 6 * hidden * expert)
    return 3 * tokens * (m["layers"] * layer + 2 * hidden * m["vocab_size"])


def expected(run):
    return flops(run) / min(run["cores"], run["ranks"] * run["threads"])


def print_tables(results):
    for table, title in TITLES.items():
        runs = {}
        for r in results:
            if r["table"] == table:
                runs.setdefault(COLUMNS[table](r), []).append(r)
        if not runs:
            continue
        first = next(iter(runs.values()))
        print(f"\n| {title} | tokens/s | step over the first, expected | measured "
              "| exposed communication | memory of a rank, MB |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, r in runs.items():
            print(f"| {name} | {median(r, 'tokens_per_second'):.0f} "
                  f"| {expected(r[0]) / expected(first[0]):.2f} "
                  f"| {median(r, 'step_seconds') / median(first, 'step_seconds'):.2f} "
                  f"| {100 * median(r, 'exposed_share'):.0f} % "
                  f"| {median(r, 'memory_bytes') / 1e6:.0f} |")


def median(results, key):
    return statistics.median(r[key] for r in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--build", default="build/cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output")
    parser.add_argument("--print", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    results = []
    if arguments.print:
        for path in arguments.print:
            results += [json.loads(line) for line in open(path)]
    else:
        bench = Bench(arguments.build, arguments.output)
        for table in arguments.tables or TABLES:
            for _ in range(arguments.rounds):
                results += [bench.run(table, steps=6, **case) for case in TABLES[table]]
    print_tables(results)


if __name__ == "__main__":
    main()
