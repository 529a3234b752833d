#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns a LLaMA of llama.cpp (GGUF) or llama2.c (.bin) into a Hugging Face folder in f32.

    make_model.py MODEL.gguf FOLDER
    make_model.py MODEL.bin FOLDER --tokenizer tokenizer.model

Both keep rows of q and k so that rotary positions turn neighbouring pairs; Hugging Face turns
halves, so these rows are put back into its order. A GGUF brings its byte-level BPE, which becomes
tokenizer.json; llama2.c has a sentencepiece model beside it, which is copied. FOLDER must not exist.
Needs numpy. Weights of a GGUF may be F32, F16, BF16, Q4_0, Q4_1, Q8_0.
"""

import argparse
import json
import mmap
import shutil
import struct
import sys
from pathlib import Path

import numpy as np


class BadModel(Exception):
    """The file is not what it should be; the message says how."""


def halves_from_pairs(rows, head_dim):
    """Rows of each head from (2i, 2i + 1) to (i, head_dim / 2 + i)."""
    heads = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return heads.transpose(0, 2, 1, 3).reshape(rows.shape)


# ---- GGUF ---------------------------------------------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}
STRING, ARRAY = 8, 9
BLOCK = 32  # weights that share a scale


def nibbles(packed):
    """The lower halves of the bytes are a block's first 16 weights, the upper ones its last."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def from_bf16(raw):
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def from_q4_0(raw):
    blocks = raw.view([("scale", "<f2"), ("q", "u1", BLOCK // 2)])
    return (nibbles(blocks["q"]) - 8) * blocks["scale"].astype(np.float32)[:, None]


def from_q4_1(raw):
    blocks = raw.view([("scale", "<f2"), ("least", "<f2"), ("q", "u1", BLOCK // 2)])
    scale, least = (blocks[f].astype(np.float32)[:, None] for f in ("scale", "least"))
    return nibbles(blocks["q"]) * scale + least


def from_q8_0(raw):
    blocks = raw.view([("scale", "<f2"), ("q", "i1", BLOCK)])
    return blocks["q"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]


# GGUF's number of a type: weights in a block, bytes of a block, bytes to f32.
TYPES = {
    0: (1, 4, lambda raw: raw.view("<f4")),
    1: (1, 2, lambda raw: raw.view("<f2").astype(np.float32)),
    2: (BLOCK, 18, from_q4_0),
    3: (BLOCK, 20, from_q4_1),
    8: (BLOCK, 34, from_q8_0),
    30: (1, 2, from_bf16),
}


class Gguf:
    """The metadata of a GGUF file, and its tensors on demand."""

    def __init__(self, path):
        self.path, self.position = path, 0
        if path.stat().st_size == 0:
            raise BadModel("is empty")
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.bytes[:4] != b"GGUF":
            raise BadModel("is no GGUF file")
        version = self.take("4xI")
        if version not in (2, 3):
            raise BadModel(f"is GGUF of version {version}; 2 and 3 are known")
        tensors, entries = self.take("Q"), self.take("Q")
        self.metadata = {}
        for _ in range(entries):
            key = self.text()
            self.metadata[key] = self.value(self.take("I"))
        self.tensors = {}
        for _ in range(tensors):
            name = self.text()
            # The fastest dimension comes first.
            shape = [self.take("Q") for _ in range(self.take("I"))][::-1]
            self.tensors[name] = (shape, self.take("I"), self.take("Q"))
        alignment = self.metadata.get("general.alignment", 32)
        self.data = -(-self.position // alignment) * alignment

    def take(self, layout):
        try:
            (value,) = struct.unpack_from("<" + layout, self.bytes, self.position)
        except struct.error:
            raise BadModel("is truncated") from None
        self.position += struct.calcsize("<" + layout)
        return value

    def text(self):
        size = self.take("Q")
        begin = self.position
        self.position += size
        if self.position > len(self.bytes):
            raise BadModel("is truncated")
        return self.bytes[begin:self.position].decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(count)]
        if kind not in SCALARS:
            raise BadModel(f"has metadata of the unknown type {kind}")
        return self.take(SCALARS[kind])

    def get(self, key, default=None):
        value = self.metadata.get(key, default)
        if value is None:
            raise BadModel(f"has no {key}")
        return value

    def tensor(self, name):
        """In f32, as rows."""
        if name not in self.tensors:
            raise BadModel(f"has no tensor {name}")
        shape, kind, offset = self.tensors.pop(name)
        if kind not in TYPES:
            raise BadModel(f"has {name} in the type {kind}, which this does not read")
        weights, size, to_f32 = TYPES[kind]
        if shape[-1] % weights != 0:
            raise BadModel(f"has {name} with rows that are no whole blocks of {weights}")
        count = int(np.prod(shape)) // weights * size
        if self.data + offset + count > len(self.bytes):
            raise BadModel("is truncated")
        raw = np.frombuffer(self.bytes, np.uint8, count, self.data + offset)
        return to_f32(raw).reshape(shape)


def byte_level_bpe(gguf):
    """tokenizer.json and tokenizer_config.json."""
    kind, cut = gguf.get("tokenizer.ggml.model"), gguf.get("tokenizer.ggml.pre")
    if (kind, cut) != ("gpt2", "smollm"):
        raise BadModel(f"has a tokenizer {kind}/{cut}; only gpt2/smollm is known")
    pieces = gguf.get("tokenizer.ggml.tokens")
    control = 3  # a special token; 1 is an ordinary one
    special = [i for i, t in enumerate(gguf.get("tokenizer.ggml.token_type")) if t == control]
    unknown = gguf.metadata.get("tokenizer.ggml.unknown_token_id")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None,
                  "unk_token": None if unknown is None else pieces[unknown],
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {piece: i for i, piece in enumerate(pieces)},
                  "merges": gguf.get("tokenizer.ggml.merges")},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": pieces[gguf.get("tokenizer.ggml.bos_token_id")],
        "eos_token": pieces[gguf.get("tokenizer.ggml.eos_token_id")],
        "clean_up_tokenization_spaces": False,
    }
    if "tokenizer.chat_template" in gguf.metadata:
        config["chat_template"] = gguf.metadata["tokenizer.chat_template"]
    return tokenizer, config


GGUF_NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
              "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
              "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
              "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def read_gguf(path):
    gguf = Gguf(path)
    if gguf.get("general.architecture") != "llama":
        raise BadModel(f"is a {gguf.get('general.architecture')}, no llama")
    llama = lambda key, default=None: gguf.get("llama." + key, default)
    heads, hidden = llama("attention.head_count"), llama("embedding_length")
    head_dim = llama("attention.key_length", hidden // heads)
    if llama("rope.dimension_count", head_dim) != head_dim:
        raise BadModel("turns a part of each head, which is not supported")
    tokenizer, tokenizer_config = byte_level_bpe(gguf)
    config = {
        "vocab_size": len(tokenizer["model"]["vocab"]), "hidden_size": hidden,
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": llama("attention.head_count_kv", heads), "head_dim": head_dim,
        "max_position_embeddings": llama("context_length"),
        # Stored in f32, meant as the decimal it is next to.
        "rms_norm_eps": float(f"{llama('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": llama("rope.freq_base", 10000.0),
        "bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.get("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }
    weights = {"model.embed_tokens.weight": gguf.tensor("token_embd.weight")}
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in GGUF_NAMES.items():
            weight = gguf.tensor(f"blk.{layer}.{theirs}.weight")
            if theirs in ("attn_q", "attn_k"):
                weight = halves_from_pairs(weight, head_dim)
            weights[f"model.layers.{layer}.{ours}.weight"] = weight
    weights["model.norm.weight"] = gguf.tensor("output_norm.weight")
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = gguf.tensor("output.weight")
    if gguf.tensors:
        raise BadModel(f"has tensors that no llama has: {', '.join(sorted(gguf.tensors))}")
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config}
    return config, weights, files


# ---- llama2.c -----------------------------------------------------------------------------------

def read_llama2c(path):
    raw = np.fromfile(path, np.uint8)
    if raw.size < 28:
        raise BadModel("is no llama2.c model")
    hidden, inner, layers, heads, kv_heads, vocab, positions = map(int, raw[:28].view("<i4"))
    if min(hidden, inner, layers, heads, kv_heads, abs(vocab), positions) < 1 or hidden % heads:
        raise BadModel("is no llama2.c model")
    data, position = raw[28:len(raw) // 4 * 4].view("<f4"), 0
    head_dim = hidden // heads

    def take(*shape):
        nonlocal position
        count = int(np.prod(shape))
        if position + count > data.size:
            raise BadModel("is truncated")
        position += count
        return data[position - count:position].reshape(shape)

    config = {
        "vocab_size": abs(vocab), "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": vocab > 0,
    }
    weights = {"model.embed_tokens.weight": take(abs(vocab), hidden)}
    for name, *shape in (("input_layernorm", hidden),
                         ("self_attn.q_proj", hidden, hidden),
                         ("self_attn.k_proj", kv_heads * head_dim, hidden),
                         ("self_attn.v_proj", kv_heads * head_dim, hidden),
                         ("self_attn.o_proj", hidden, hidden),
                         ("post_attention_layernorm", hidden),
                         ("mlp.gate_proj", inner, hidden),
                         ("mlp.down_proj", hidden, inner),
                         ("mlp.up_proj", inner, hidden)):
        for layer in range(layers):
            weight = take(*shape)
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = halves_from_pairs(weight, head_dim)
            weights[f"model.layers.{layer}.{name}.weight"] = weight
    weights["model.norm.weight"] = take(hidden)
    take(2, positions, head_dim // 2)  # tables of cosines and sines
    if vocab < 0:
        weights["lm_head.weight"] = take(-vocab, hidden)
    return config, weights, {}


# ---- writing ------------------------------------------------------------------------------------

def write_safetensors(path, weights):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, weight in weights.items():
        header[name] = {"dtype": "F32", "shape": list(weight.shape),
                        "data_offsets": [end, end + weight.size * 4]}
        end += weight.size * 4
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in weights.values():
            file.write(np.ascontiguousarray(weight, "<f4").tobytes())


def write_folder(folder, config, weights, files):
    """Under another name first, so that a folder of this name is whole."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
              "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32", **config}
    for name, content in {"config.json": config, **files}.items():
        if isinstance(content, Path):
            shutil.copyfile(content, unfinished / name)
        else:
            (unfinished / name).write_text(json.dumps(content, ensure_ascii=False, indent=1))
    write_safetensors(unfinished / "model.safetensors", weights)
    unfinished.rename(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="of a llama2.c model: its sentencepiece file")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} exists already")
    is_gguf = args.model.suffix == ".gguf"
    if is_gguf == (args.tokenizer is not None):
        parser.error("--tokenizer belongs to models of llama2.c, and they need it")
    try:
        config, weights, files = (read_gguf if is_gguf else read_llama2c)(args.model)
    except BadModel as problem:
        sys.exit(f"make_model.py: {args.model} {problem}")
    if args.tokenizer:
        files["tokenizer.model"] = args.tokenizer
    write_folder(args.folder, config, weights, files)


if __name__ == "__main__":
    main()
