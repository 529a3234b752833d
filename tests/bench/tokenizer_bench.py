#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of our tokenizers on one core with Hugging Face's and sentencepiece's.

    pip install tokenizers && apt-get install sentencepiece
    python3 tests/bench/tokenizer_bench.py --program build/cpu/tests/bench/bench_tokenizer \
        --data ../shared/realdata [--rounds 7] [--every 3]

Encodes the documents of redpajama_sample (or every third), in turns; prints the medians of processor time, so that it
may run on a busy machine. Ours is a new process each round and so knows no words yet; the others keep
what they have. Stops where ids differ.
"""

import argparse
import base64
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402  (reads the environment)

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def llama3_json(ranks_file: Path) -> str:
    """LLaMA-3's tokenizer.json, from its ranks: every two tokens that make a third are a merge."""
    plain = [b for b in range(256) if 32 < b < 127 or 160 < b and b != 173]
    others = [b for b in range(256) if b not in plain]
    characters = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    lines = (line.split() for line in ranks_file.read_text().splitlines())
    ranks = {base64.b64decode(text): int(rank) for text, rank in lines}
    written = {text: "".join(characters[b] for b in text) for text in ranks}
    merges = [[written[text[:i]], written[text[i:]]] for text in ranks for i in range(1, len(text))
              if text[:i] in ranks and text[i:] in ranks]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "ignore_merges": True,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "merges": merges,
                  "vocab": {written[text]: rank for text, rank in ranks.items()}}})


def processor_seconds(command, **options) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Ours:
    def __init__(self, program, tokenizer, files):
        self.program, self.tokenizer, self.files = program, str(tokenizer), [str(f) for f in files]

    def seconds(self):
        result = subprocess.run([self.program, self.tokenizer, "1", *self.files], check=True,
                                capture_output=True, text=True)
        seconds, self.bytes, self.tokens = map(float, result.stdout.split())
        return seconds

    def ids(self):
        result = subprocess.run([self.program, "--ids", self.tokenizer, *self.files], check=True,
                                capture_output=True, text=True)
        return [[int(i) for i in line.split()] for line in result.stdout.splitlines()]


class HuggingFace:
    def __init__(self, text, documents):
        self.tokenizer, self.documents = Tokenizer.from_str(text), documents

    def seconds(self):
        start = time.process_time()
        self.tokenizer.encode_batch_fast(self.documents, add_special_tokens=False)
        return time.process_time() - start

    def ids(self):
        encodings = self.tokenizer.encode_batch_fast(self.documents, add_special_tokens=False)
        return [e.ids for e in encodings]


class SpmEncode:
    def __init__(self, model, lines):
        self.command = ["spm_encode", f"--model={model}", "--output_format=id"]
        self.lines = lines

    def seconds(self):
        def run(file):
            with open(file) as text:
                return processor_seconds(self.command, stdin=text, stdout=subprocess.DEVNULL)
        return run(self.lines) - run(os.devnull)  # without the time to open the model

    def ids(self):
        with open(self.lines) as text:
            result = subprocess.run(self.command, check=True, stdin=text, capture_output=True, text=True)
        return [[int(i) for i in line.split()] for line in result.stdout.splitlines()]


def compare(name, ours, other, rounds):
    assert ours.ids() == other.ids(), f"{name}: ids differ"
    times = [(ours.seconds(), other.seconds()) for _ in range(rounds)]
    mine, others = (statistics.median(column) for column in zip(*times))
    ratio = statistics.median(b / a for a, b in times)
    megabytes, tokens = ours.bytes / 1e6, ours.tokens / 1e6
    print(f"| {name} | {megabytes / mine:.1f} MB/s, {tokens / mine:.2f} M tokens/s "
          f"| {megabytes / others:.1f} MB/s | {ratio:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=1, help="take every Nth document only")
    options = parser.parse_args()
    files = sorted((options.data / "corpus/redpajama_sample").glob("*/*.jsonl"))
    documents = [json.loads(line)["text"] for file in files for line in open(file)][::options.every]
    llama2, llama3 = options.data / "tokenizers/llama2", options.data / "tokenizers/llama3"
    print("| tokenizer | ours, one core | the other | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.txt"
        lines.write_text("".join(" ".join(d.splitlines()) + "\n" for d in documents))
        compare("LLaMA-2 `tokenizer.model`, spm_encode",
                Ours(options.program, llama2 / "tokenizer.model", [lines]),
                SpmEncode(llama2 / "tokenizer.model", lines), options.rounds)
        texts = Path(folder) / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
        made = Path(folder) / "tokenizer.json"
        made.write_text(llama3_json(llama3 / "tokenizer.model"))
        for name, tokenizer, reference in (
                ("LLaMA-2 `tokenizer.json`", llama2 / "tokenizer.json", llama2 / "tokenizer.json"),
                ("LLaMA-3 `tokenizer.json`", made, made),
                ("LLaMA-3 `tokenizer.model`", llama3 / "tokenizer.model", made)):
            compare(f"{name}, encode_batch_fast", Ours(options.program, tokenizer, [texts]),
                    HuggingFace(reference.read_text(), documents), options.rounds)


if __name__ == "__main__":
    main()
