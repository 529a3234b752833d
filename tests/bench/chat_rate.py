#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast moe-data chat is against moe-data build on the same text, in bytes of text a second
of processor time; opening the tokenizer does not count.

Usage: chat_rate.py MOE_DATA REALDATA [--template NAME] [--tokenizer NAME] [--rounds 5]
The text: the texts of redpajama_sample's c4-rp and stackexchange, once as they are, once each parted
into conversations of turns of some 400 characters. Runs take turns; medians of the rounds.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("moe_data")
parser.add_argument("realdata", type=pathlib.Path)
parser.add_argument("--template", default="llama3")
parser.add_argument("--tokenizer", default="llama3")
parser.add_argument("--rounds", type=int, default=5)
options = parser.parse_args()

texts = []
for name in ("c4-rp/sample_c4-rp1", "stackexchange/sample_stackexchange1"):
    path = options.realdata / f"corpus/redpajama_sample/{name}.jsonl"
    texts += [json.loads(line)["text"] for line in open(path, encoding="utf-8")]

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    turns_of = [[t[i : i + 400] for i in range(0, len(t), 400)] for t in texts]
    # Pairs of a question and an answer, none blank.
    turns_of = [
        [x for x in turns if x.strip()][: len([x for x in turns if x.strip()]) // 2 * 2]
        for turns in turns_of
    ]
    turns_of = [turns for turns in turns_of if turns]
    roles = ("user", "assistant")
    with open(folder / "text.jsonl", "w", encoding="utf-8") as out:
        for _ in range(4):
            for turns in turns_of:
                out.write(json.dumps({"text": "".join(turns)}, ensure_ascii=False) + "\n")
    with open(folder / "chat.jsonl", "w", encoding="utf-8") as out:
        for _ in range(4):
            for turns in turns_of:
                messages = [
                    {"role": roles[i % 2], "content": text} for i, text in enumerate(turns)
                ]
                out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    size = 4 * sum(len(text.encode()) for turns in turns_of for text in turns)

    tokenizer = str(options.realdata / "tokenizers" / options.tokenizer)
    common = ["--tokenizer", tokenizer, "--domain", "d", "--force", "--json", "--output"]
    build = ["build", "--input", folder / "text.jsonl", *common, folder / "text.h5"]
    chat = ["chat", "--input", folder / "chat.jsonl", "--template", options.template, *common,
            folder / "chat.h5"]
    start = [
        "build", "--input", folder / "one.jsonl", *common, folder / "one.h5"
    ]  # opens the tokenizer, and little else
    (folder / "one.jsonl").write_text('{"text": "one"}\n')

    def processor_seconds(command):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([options.moe_data, *map(str, command)], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds = {"build": [], "chat": []}
    for _ in range(options.rounds):
        opening = processor_seconds(start)
        for command in (build, chat):
            seconds[command[0]].append(processor_seconds(command) - opening)
    rate = {name: size / statistics.median(values) / 1e6 for name, values in seconds.items()}
    ratio = statistics.median(b / c for b, c in zip(seconds["build"], seconds["chat"]))
    print(f"{options.template}: {size / 1e6:.1f} MB; build {rate['build']:.1f} MB/s, "
          f"chat {rate['chat']:.1f} MB/s, ratio {ratio:.2f}")
