#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares moe-split with copying the folder it splits.

    tests/bench/split_bench.py --program build/cpu/moe-split --folder /tmp/bench [--layers 4]

Makes a dense folder of LLaMA-2-7B's shape with few layers and random weights (once), then runs a
copy that ends with fsync, like moe-split does, and the split in turns, and prints the medians: of
the time, which needs a quiet machine, and of the processor time of all threads.
Options after -- go to moe-split: -- --method clustering.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path


def random_weights(count: int) -> bytes:
    """bf16 values between 0.0078 and 0.12 of either sign."""
    data = bytearray(2 * count)
    data[0::2] = os.urandom(count)
    data[1::2] = os.urandom(count).translate(bytes((b & 0x80) | 0x3C | (b & 1) for b in range(256)))
    return bytes(data)


def tensor_shapes(layers: int, hidden: int, neurons: int, vocabulary: int) -> dict:
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden]}
    for l in range(layers):
        layer = f"model.layers.{l}."
        for part in "qkvo":
            shapes[f"{layer}self_attn.{part}_proj.weight"] = [hidden, hidden]
        shapes[layer + "mlp.gate_proj.weight"] = [neurons, hidden]
        shapes[layer + "mlp.up_proj.weight"] = [neurons, hidden]
        shapes[layer + "mlp.down_proj.weight"] = [hidden, neurons]
        shapes[layer + "input_layernorm.weight"] = [hidden]
        shapes[layer + "post_attention_layernorm.weight"] = [hidden]
    shapes["model.norm.weight"] = [hidden]
    shapes["lm_head.weight"] = [vocabulary, hidden]
    return shapes


def make_folder(folder: Path, layers: int, hidden: int, neurons: int, vocabulary: int) -> None:
    folder.mkdir(parents=True)
    header, offset = {}, 0
    shapes = tensor_shapes(layers, hidden, neurons, vocabulary)
    sizes = {name: shape[0] * (shape[1] if len(shape) == 2 else 1) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        end = offset + 2 * sizes[name]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for size in sizes.values():
            out.write(random_weights(size))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": neurons,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def timed(action) -> tuple:
    """Seconds on the clock, and on processors by child processes."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *target.iterdir()], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("split_options", nargs="*")
    args = parser.parse_args()

    dense = args.folder / f"dense-{args.layers}"
    if not dense.exists():
        make_folder(dense, args.layers, 4096, 11008, 32000)
    copied, split = args.folder / "copied", args.folder / "split"
    copies, splits, memory = [], [], 0
    for _ in range(args.runs):
        for folder in copied, split:
            shutil.rmtree(folder, ignore_errors=True)
        os.sync()
        copies.append(timed(lambda: copy(dense, copied)))
        shutil.rmtree(copied)
        os.sync()
        command = [args.program, "--input", dense, "--output", split, "--json", *args.split_options]
        result = []
        splits.append(timed(lambda: result.append(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout)))
        memory = max(memory, json.loads(result[0])["anonymous_memory_bytes"])
    shutil.rmtree(split)
    for i, what in enumerate(("time", "processor time")):
        copy_median, split_median = (statistics.median(t[i] for t in x) for x in (copies, splits))
        print(f"{what}: copy {copy_median:.2f} s, split {split_median:.2f} s, "
              f"ratio {split_median / copy_median:.2f}")
    print("each run:", " ".join(f"{c[0]:.2f}/{s[0]:.2f}" for c, s in zip(copies, splits)))
    print(f"anonymous memory at most {memory / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
