#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizers beside this file and what they must give for texts that are hard to cut.

    pip install tokenizers && python3 tests/data/tokenizers/make.py

Two vocabularies are trained on the project's licence and a few lines in other scripts: byte_level.json
and byte_fallback.json. ranks.tiktoken holds the first as tiktoken writes it. cases.json has the texts
(invalid UTF-8 as hexadecimal digits) and a list of tokenizers: a base, what is changed in it (a JSON
merge patch), the ids that the library gives, and what they decode to where that is not the text.
"""

import base64
import copy
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

NOTHING = {"type": "Sequence", "normalizers": []}

OTHER_SCRIPTS = """
Grüße aus Köln: schöne Äpfel, süße Öfen, größere Straßen. Les élèves où l'été naît à Noël.
Быстрая лиса перепрыгивает через ленивую собаку, а собака спит и видит сны о лисах и о собаках.
ภาษาไทยไม่มีช่องว่างระหว่างคำ ภาษาไทยมีวรรณยุกต์ และภาษาไทยเขียนจากซ้ายไปขวา
专家混合模型把每个词送给少数专家。每个词只送给少数专家，专家混合模型因此很快。
def f(x):\n    return x ** 2 + 10  # 10, 100, 1000, 2024, 12345, 67890\n\n\nfor i in range(100):\n\tprint(i, f(i))
😀 😃 😄 👍🏽 👩‍👩‍👧‍👦 🦙 🦙 🦙 🏴󠁧󠁢󠁥󠁮󠁧󠁿
"""

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n  ", "\t\n", " \n ",
    "Hello", " Hello", "  Hello", "Hello ", "Hello  world", "Hello, world!", "HELLO World's",
    "I'm you're we've he'll she'd 'S 'T 'RE it'ſ", "''''''", "don't can't WON'T",
    "License", "licensee licensing LICENSE", "the Licensor's work and the work's Licensor",
    "3", "33", "333", "3333", "33333", "1234567890123456789", "3.14159, 2024-11-23, 1e-5, ½ ² ৩ Ⅷ",
    "a" * 120, "ab" * 90, " " * 64 + "x" + " " * 33, "\n" * 20 + "y", "=" * 70, "-+*/<>!?;:" * 6,
    "e\u0301 é a\u0308\u0323 ﬁ Å Å ｆｕｌｌ", "\u0301\u0301\u0301", "Z\u0335\u0321a\u0334l\u0338g\u0340o\u0358",
    "ภาษาไทยไม่มีช่องว่าง", "กำ กํา", "专家混合模型，很快。", "한국어 텍스트", "日本語のテキスト", "ελληνικά και ქართული",
    "שלום עולם مرحبا بالعالم", "\u200e\u200f\u202a\u2066", "Быстрая лиса", "съешь ещё этих булок",
    "😀", "👍🏽", "👩‍👩‍👧‍👦 family", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇩🇪🇫🇷🇩🇪", "🦙🦙🦙🦙", "x😀y 😀 z",
    "\0", "\0\0a\0", "\x01\x02\x1b[0m\x7f", "\x80\x85\xa0".encode("latin-1").decode("latin-1"),
    "\u0085\u00a0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\ufeff|", "a\u00a0b\u3000c\u180ed\u2028e",
    "\ufffd \ufffe \uffff \U0010ffff \ue000 \U000f0000", "▁", "▁▁Hello▁ world▁", "Ġ Ċ Hello Ġworld", "<0x41><0x0A>",
    "<s>Hello</s><unk>", "<|begin_of_text|>a<|end_of_text|>", "|||IP||| and  |||IP|||", "x|||IP|||y<keep>  <keep>z",
    "def f(x):\n    return x\n\n\n\tprint( f(1) )\n", "    four\n        eight\n\t\ttabs \t mixed",
    "https://www.apache.org/licenses/LICENSE-2.0?a=b&c=%20d#e", "C:\\dir\\file.txt \"q\" 'r' `s`",
    "tail  ", "tail \n", "tail\n ", "\u00adsoft\u00adhyphen", "İstanbul ıI ß ẞ ǅ ŉ", "𝔘𝔫𝔦 𝟙𝟚𝟛 𒀀",
]
BROKEN = [b"\xff", b"a\xffb", b"\xc3", b"\xc3(", b"\xe4\xb8", b"\xe4\xb8 \xe4\xb8\xad", b"\xf0\x9f\x98",
          b"\xf0\x9f\x98\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80\x80 x \xfe",
          b"ok \xe2\x28\xa1 ok", b"\xf8\x88\x80\x80\x80"]


def with_replacements(data: bytes) -> str:
    """Each byte that belongs to no character becomes U+FFFD."""
    text, at = "", 0
    while at < len(data):
        for length in range(1, 5):
            try:
                text += data[at:at + length].decode()
                at += length
                break
            except UnicodeDecodeError:
                pass
        else:
            text += "\ufffd"
            at += 1
    return text


def train_byte_level(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    return json.loads(tokenizer.to_str())


def train_byte_fallback(lines):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for the training only
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=660, show_progress=False, special_tokens=first, limit_alphabet=130))
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = made["added_tokens"][:3]
    made["pre_tokenizer"] = None
    return made


def byte_characters():
    """GPT-2's: the character that stands for each byte."""
    plain = [b for b in range(256) if 32 < b < 127 or 160 < b and b != 173]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def as_ranks(made):
    """The tokenizer that tiktoken's file stands for: whatever two tokens make a third is a merge."""
    made = copy.deepcopy(made)
    vocab = made["model"]["vocab"]
    merges = []
    for token, rank in sorted(vocab.items(), key=lambda item: item[1]):
        merges += [[token[:i], token[i:]] for i in range(1, len(token))
                   if token[:i] in vocab and token[i:] in vocab]
    made["model"]["merges"] = merges
    made["model"]["ignore_merges"] = True
    return made


def patched(base, patch):
    if not isinstance(patch, dict) or not isinstance(base, dict):
        return patch
    made = dict(base)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = patched(made.get(key), value)
    return made


def added(id, content, special, normalized):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special}


def split(regex, behavior, invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def byte_level(add_prefix_space=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True,
            "use_regex": use_regex}


def metaspace(scheme, cut):
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
    return {"normalizer": NOTHING, "pre_tokenizer": space, "decoder": space}


def main():
    lines = (HERE.parent.parent.parent / "LICENSE").read_text().splitlines(keepends=True)
    lines += OTHER_SCRIPTS.splitlines(keepends=True) * 3
    bases = {"byte_level": train_byte_level(lines), "byte_fallback": train_byte_fallback(lines)}
    for name, made in bases.items():
        (HERE / f"{name}.json").write_text(json.dumps(made, ensure_ascii=False, indent=0) + "\n")
    vocab = bases["byte_level"]["model"]["vocab"]
    bytes_of = {character: byte for byte, character in byte_characters().items()}
    with open(HERE / "ranks.tiktoken", "w") as out:
        for token, rank in sorted(vocab.items(), key=lambda item: item[1]):
            out.write(base64.b64encode(bytes(bytes_of[c] for c in token)).decode() + f" {rank}\n")

    size = len(vocab)  # the library counts on from there, whatever the file says
    own = [added(size, "|||IP|||", False, True), added(size + 1, "<keep>", False, False),
           added(size + 2, "<|end_of_text|>", True, False), added(size + 3, "  ", False, False),
           added(size + 4, "    ", False, False)]
    fallback_size = len(bases["byte_fallback"]["model"]["vocab"])
    fallback_own = bases["byte_fallback"]["added_tokens"] + [
        added(fallback_size, "|||IP|||", False, True), added(fallback_size + 1, "<keep>", False, False)]
    tokenizers = [
        ("llama-3", "byte_level", {}),
        ("llama-3, whole words first", "byte_level", {"model": {"ignore_merges": True}}),
        ("gpt-2", "byte_level", {"pre_tokenizer": byte_level()}),
        ("gpt-2 with a space before", "byte_level", {"pre_tokenizer": byte_level(True)}),
        ("no words at all", "byte_level", {"pre_tokenizer": byte_level(False, False)}),
        ("qwen", "byte_level", {"normalizer": {"type": "NFC"},
                                "pre_tokenizer": sequence(split(QWEN, "Isolated"), byte_level(False, False))}),
        ("olmoe", "byte_level", {"normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level(),
                                 "added_tokens": own}),
        ("nfkc and strip", "byte_level",
         {"normalizer": {"type": "Sequence", "normalizers": [
             {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"}]}}),
        ("nfd", "byte_level", {"normalizer": {"type": "NFD"}}),
        ("nfkd, a pattern replaced", "byte_level",
         {"normalizer": {"type": "Sequence", "normalizers": [
             {"type": "NFKD"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "_"}]}}),
        ("digits, punctuation", "byte_level",
         {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True},
                                    {"type": "Punctuation", "behavior": "Contiguous"}, byte_level())}),
        ("digits together", "byte_level",
         {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level())}),
    ]
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            tokenizers.append((f"{behavior}{', inverted' if invert else ''}", "byte_level", {
                "pre_tokenizer": sequence(split(r"[\s▁]|l+", behavior, invert), byte_level(False, False))}))
    tokenizers += [
        ("llama-2", "byte_fallback", {}),
        ("llama-2 with added tokens", "byte_fallback", {"added_tokens": fallback_own}),
        ("llama-2, whole words first", "byte_fallback", {"model": {"ignore_merges": True}}),
        ("unknown characters", "byte_fallback", {"model": {"byte_fallback": False}}),
        ("unknown characters, each alone", "byte_fallback",
         {"model": {"byte_fallback": False, "fuse_unk": False}}),
        ("white space between words dropped", "byte_fallback",
         {"normalizer": NOTHING, "pre_tokenizer": {"type": "WhitespaceSplit"}}),
    ]
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            tokenizers.append((f"metaspace {scheme}{', cut' if cut else ''}", "byte_fallback",
                               metaspace(scheme, cut) | {"added_tokens": fallback_own}))

    texts = TEXTS + [with_replacements(data) for data in BROKEN]
    cases = []
    for name, base, patch in tokenizers + [("tiktoken", "ranks", None)]:
        made = as_ranks(bases["byte_level"]) if base == "ranks" else patched(bases[base], patch)
        tokenizer = Tokenizer.from_str(json.dumps(made))
        tokenizer.encode_special_tokens = True  # their texts are plain text
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [tokenizer.decode(each) for each in ids]
        cases.append({"name": name, "base": base, "patch": patch, "ids": ids,
                      "decoded": {str(i): d for i, d in enumerate(decoded) if d != texts[i]}})
    inputs = [{"text": text} for text in TEXTS] + [{"hex": data.hex()} for data in BROKEN]
    with open(HERE / "cases.json", "w") as out:
        out.write('{"inputs": ' + json.dumps(inputs) + ',\n "tokenizers": [\n')
        out.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
