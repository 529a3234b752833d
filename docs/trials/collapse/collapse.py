# SPDX-License-Identifier: Apache-2.0
"""Gives a native model with a linear gate a gate bias that sends every token to experts 0 and 1.

Usage: collapse.py MODEL OUTPUT [BIAS]
"""
import json
import pathlib
import struct
import sys

model, output = map(pathlib.Path, sys.argv[1:3])
bias = float(sys.argv[3]) if len(sys.argv) > 3 else 3.0
config = json.loads((model / "config.json").read_text())
config["model"]["gate_bias"] = True
data = (model / "model.safetensors").read_bytes()
length = struct.unpack("<Q", data[:8])[0]
header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
experts, k = config["model"]["experts"], config["model"]["top_k"]
for layer in range(config["model"]["layers"]):
    values = struct.pack(f"<{experts}f", *[bias if e < k else 0.0 for e in range(experts)])
    header[f"layers.{layer}.router.bias"] = {
        "dtype": "F32",
        "shape": [experts],
        "data_offsets": [len(tensors), len(tensors) + len(values)],
    }
    tensors += values
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
output.mkdir(parents=True, exist_ok=True)
(output / "config.json").write_text(json.dumps(config))
(output / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + tensors)
