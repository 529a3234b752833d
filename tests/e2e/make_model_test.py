# SPDX-License-Identifier: Apache-2.0
"""One small model, written as GGUF and as llama2.c by plain loops, through make_model.py.

Usage: make_model_test.py MAKE_MODEL; leaves folder and from-llama2c, which hold the same weights.
"""
import json
import pathlib
import random
import struct
import subprocess
import sys

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCAB, POSITIONS = 64, 96, 2, 4, 2, 256, 32
HEAD = HIDDEN // HEADS
random.seed(1)


def f16(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


# Each: the bytes of 32 random weights in a type of GGUF, and what they are worth.
def block_f32():
    weights = [f32(random.gauss(0, 0.1)) for _ in range(32)]
    return struct.pack("<32f", *weights), weights


def block_f16():
    weights = [f16(random.gauss(0, 0.1)) for _ in range(32)]
    return struct.pack("<32e", *weights), weights


def block_bf16():
    upper = [struct.pack("<f", random.gauss(0, 0.1))[2:] for _ in range(32)]
    return b"".join(upper), [struct.unpack("<f", b"\0\0" + u)[0] for u in upper]


def packed(q):
    return bytes(q[i] | q[i + 16] << 4 for i in range(16))


def block_q4_0():
    scale, q = f16(random.random() / 50), [random.randrange(16) for _ in range(32)]
    return struct.pack("<e", scale) + packed(q), [(x - 8) * scale for x in q]


def block_q4_1():
    scale, least = f16(random.random() / 50), f16(-random.random() / 5)
    q = [random.randrange(16) for _ in range(32)]
    return struct.pack("<ee", scale, least) + packed(q), [f32(x * scale + least) for x in q]


def block_q8_0():
    scale, q = f16(random.random() / 900), [random.randrange(-128, 128) for _ in range(32)]
    return struct.pack("<e32b", scale, *q), [x * scale for x in q]


TYPES = {0: block_f32, 1: block_f16, 2: block_q4_0, 3: block_q4_1, 8: block_q8_0, 30: block_bf16}


def tensor(kind, rows, cols):
    """Bytes and rows of numbers."""
    raw, numbers = b"", []
    for _ in range(rows * cols // 32):
        block, weights = TYPES[kind]()
        raw += block
        numbers += weights
    return raw, [numbers[r * cols:(r + 1) * cols] for r in range(rows)]


def halves(rows):
    """What Hugging Face has where llama.cpp and llama2.c have these rows of q or k."""
    result = []
    for head in range(len(rows) // HEAD):
        of_head = rows[head * HEAD:(head + 1) * HEAD]
        result += [of_head[2 * i] for i in range(HEAD // 2)]
        result += [of_head[2 * i + 1] for i in range(HEAD // 2)]
    return result


# GGUF's name, Hugging Face's name, type, rows, columns.
PARTS = [("attn_norm", "input_layernorm", 0, 1, HIDDEN),
         ("attn_q", "self_attn.q_proj", 3, HIDDEN, HIDDEN),
         ("attn_k", "self_attn.k_proj", 8, KV_HEADS * HEAD, HIDDEN),
         ("attn_v", "self_attn.v_proj", 2, KV_HEADS * HEAD, HIDDEN),
         ("attn_output", "self_attn.o_proj", 1, HIDDEN, HIDDEN),
         ("ffn_norm", "post_attention_layernorm", 0, 1, HIDDEN),
         ("ffn_gate", "mlp.gate_proj", 3, INNER, HIDDEN),
         ("ffn_down", "mlp.down_proj", 30, HIDDEN, INNER),
         ("ffn_up", "mlp.up_proj", 3, INNER, HIDDEN)]
tensors, wanted = {"token_embd.weight": (8, *tensor(8, VOCAB, HIDDEN))}, {}
wanted["model.embed_tokens.weight"] = tensors["token_embd.weight"][2]
for layer in range(LAYERS):
    for theirs, ours, kind, rows, cols in PARTS:
        raw, numbers = tensor(kind, rows, cols)
        tensors[f"blk.{layer}.{theirs}.weight"] = (kind, raw, numbers)
        if theirs in ("attn_q", "attn_k"):
            numbers = halves(numbers)
        wanted[f"model.layers.{layer}.{ours}.weight"] = numbers
tensors["output_norm.weight"] = (0, *tensor(0, 1, HIDDEN))
wanted["model.norm.weight"] = tensors["output_norm.weight"][2]


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def entry(key, value):
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else 5
        body = struct.pack("<IQ", kind, len(value))
        body += b"".join(text(v) if kind == 8 else struct.pack("<i", v) for v in value)
        return text(key) + struct.pack("<I", 9) + body
    kinds = {str: (8, text), int: (4, lambda v: struct.pack("<I", v)),
             float: (6, lambda v: struct.pack("<f", v))}
    kind, pack = kinds[type(value)]
    return text(key) + struct.pack("<I", kind) + pack(value)


# The 256 letters of bytes: those that can be seen stand for themselves, the others follow 255.
seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
letters = {b: chr(b) for b in seen}
for b in range(256):
    letters.setdefault(b, chr(256 + len([x for x in range(b) if x not in seen])))
pieces = ["<|begin|>", "<|end|>", *[letters[b] for b in range(256) if b not in (1, 2, 3, 4)],
          "ab", "22"]
assert len(pieces) == VOCAB
metadata = {
    "general.architecture": "llama", "llama.block_count": LAYERS, "llama.context_length": POSITIONS,
    "llama.embedding_length": HIDDEN, "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS,
    "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": pieces,
    "tokenizer.ggml.token_type": [3, 3, *[1] * (VOCAB - 2)], "tokenizer.ggml.merges": ["a b", "2 2"],
    "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.unknown_token_id": 1,
}


def gguf(file, kind_of=lambda name, kind: kind):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(entry(k, v) for k, v in metadata.items())
    data = b""
    for name, (kind, raw, numbers) in tensors.items():
        shape = [len(numbers[0]), len(numbers)] if len(numbers) > 1 else [len(numbers[0])]
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", kind_of(name, kind), len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    pathlib.Path(file).write_bytes(head + b"\0" * (-len(head) % 32) + data)


def llama2c(file):
    raw = struct.pack("<7i", HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCAB, POSITIONS)
    flat = lambda rows: struct.pack(f"<{len(rows) * len(rows[0])}f", *[x for r in rows for x in r])
    raw += flat(tensors["token_embd.weight"][2])
    for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
                 "ffn_down", "ffn_up"):
        for layer in range(LAYERS):
            raw += flat(tensors[f"blk.{layer}.{name}.weight"][2])
    raw += flat(tensors["output_norm.weight"][2]) + b"\0" * (4 * POSITIONS * HEAD)
    pathlib.Path(file).write_bytes(raw)


def make(*arguments, says=None):
    """Runs make_model.py; with `says` it must refuse with these words and leave no folder."""
    run = subprocess.run([sys.executable, sys.argv[1], *arguments], capture_output=True, text=True)
    if says is None and run.returncode != 0 or says is not None and (
            run.returncode == 0 or says not in run.stderr or pathlib.Path(arguments[1]).exists()):
        sys.exit(f"make_model.py {arguments}: {run.returncode} {run.stderr}")


def compare(folder):
    raw = pathlib.Path(folder, "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    found = {name: struct.unpack(f"<{(b - a) // 4}f", raw[8 + size + a:8 + size + b])
             for name, (a, b) in ((n, t["data_offsets"]) for n, t in header.items()
                                  if n != "__metadata__")}
    if found.keys() != wanted.keys():
        sys.exit(f"{folder}: other tensors: {found.keys() ^ wanted.keys()}")
    for name, numbers in found.items():
        for i, (x, y) in enumerate(zip(numbers, (x for row in wanted[name] for x in row),
                                       strict=True)):
            if abs(x - y) > 1e-7:
                sys.exit(f"{folder}: {name}[{i}] is {x}, should be {y}")


gguf("model.gguf")
make("model.gguf", "folder")
compare("folder")
llama2c("model.bin")
pathlib.Path("tokenizer.model").write_bytes(b"any")
make("model.bin", "from-llama2c", "--tokenizer", "tokenizer.model")
compare("from-llama2c")

whole = pathlib.Path("model.gguf").read_bytes()
for size in (0, 3, 30, 1000, len(whole) - 4000):
    pathlib.Path("cut.gguf").write_bytes(whole[:size])
    make("cut.gguf", "none", says="cut.gguf is ")
pathlib.Path("cut.bin").write_bytes(pathlib.Path("model.bin").read_bytes()[:5000])
make("cut.bin", "none", "--tokenizer", "tokenizer.model", says="cut.bin is truncated")
gguf("odd.gguf", lambda name, kind: 14 if name == "blk.1.ffn_up.weight" else kind)
make("odd.gguf", "none", says="blk.1.ffn_up.weight in the type 14")
