#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch beside bench_gpu: the MoE layer and the training step of LLaMA-MoE-3.5B's shapes, with
Hugging Face's loop over experts, with grouped products, and the dense LLaMA. Needs torch alone.

  torch_bench.py [--sequences N] [--layers N]

bf16 weights, fused AdamW on them, no recomputation; times are medians between CUDA events.
"""
import argparse
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    print("nothing measured by PyTorch: there is no torch")
    sys.exit()

HIDDEN, NEURONS, HEADS, LENGTH, VOCABULARY = 4096, 11008, 32, 4096, 32000


class DenseFfn(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(HIDDEN, NEURONS, bias=False)
        self.up = nn.Linear(HIDDEN, NEURONS, bias=False)
        self.down = nn.Linear(NEURONS, HIDDEN, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Moe(nn.Module):
    """A linear router, softmax over the k chosen; experts as [E, in, out] matrices."""

    def __init__(self, experts, top_k, loads):
        super().__init__()
        size = NEURONS // experts
        self.experts, self.top_k = experts, top_k
        self.router = nn.Linear(HIDDEN, experts, bias=False)
        self.register_buffer("bias", torch.log(loads * experts))
        self.gate = nn.Parameter(torch.randn(experts, HIDDEN, size) * 0.02)
        self.up = nn.Parameter(torch.randn(experts, HIDDEN, size) * 0.02)
        self.down = nn.Parameter(torch.randn(experts, size, HIDDEN) * 0.02)

    def route(self, x):
        logits = self.router(x).float() + self.bias.float()
        values, chosen = torch.topk(logits, self.top_k, dim=-1)
        return torch.softmax(values, dim=-1).to(x.dtype), chosen


class ExpertLoop(Moe):
    """As Hugging Face's Mixtral: each expert gathers its tokens, computes, adds."""

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, HIDDEN)
        weights, chosen = self.route(x)
        out = torch.zeros_like(x)
        mask = F.one_hot(chosen, self.experts).permute(2, 1, 0)
        for e in range(self.experts):
            slot, token = torch.where(mask[e])
            rows = x[token]
            y = (F.silu(rows @ self.gate[e]) * (rows @ self.up[e])) @ self.down[e]
            out.index_add_(0, token, y * weights[token, slot, None])
        return out.reshape(shape)


class Grouped(Moe):
    """Rows sorted by expert, products of all experts in one call."""

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, HIDDEN)
        weights, chosen = self.route(x)
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        token = order // self.top_k
        offsets = torch.cumsum(torch.bincount(flat, minlength=self.experts), 0).to(torch.int32)
        rows = x[token]
        hidden = F.silu(torch._grouped_mm(rows, self.gate, offs=offsets)) * torch._grouped_mm(
            rows, self.up, offs=offsets)
        y = torch._grouped_mm(hidden, self.down, offs=offsets)
        out = torch.zeros_like(x)
        out.index_add_(0, token, y * weights.reshape(-1)[order, None])
        return out.reshape(shape)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return F.rms_norm(x, (HIDDEN,), self.weight, 1e-5)


class Layer(nn.Module):
    def __init__(self, ffn):
        super().__init__()
        self.norm1, self.norm2, self.ffn = Norm(), Norm(), ffn()
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        y = self.norm1(x)
        q, k, v = (p(y).view(batch, length, HEADS, -1).transpose(1, 2)
                   for p in (self.q, self.k, self.v))

        def turn(z):
            a, b = z.chunk(2, dim=-1)
            return z * cos + torch.cat((-b, a), dim=-1) * sin

        y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, HIDDEN))
        return x + self.ffn(self.norm2(x))


class Llama(nn.Module):
    def __init__(self, layers, ffn):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer(ffn) for _ in range(layers))
        self.norm, self.head = Norm(), nn.Linear(HIDDEN, VOCABULARY, bias=False)
        angles = torch.outer(torch.arange(LENGTH).float(),
                             10000 ** -(torch.arange(0, HIDDEN // HEADS, 2).float() * HEADS / HIDDEN))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos().to(torch.bfloat16))
        self.register_buffer("sin", angles.sin().to(torch.bfloat16))

    def forward(self, tokens, labels):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), labels.flatten())


def seconds_of(work, rounds=5, warm_up=3):
    times = []
    for i in range(rounds + warm_up):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        if i >= warm_up:
            times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def made(build):
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        return build()


def layer_seconds(ffn, sequences):
    module = made(ffn)
    x = torch.randn(sequences, LENGTH, HIDDEN, device="cuda", dtype=torch.bfloat16)
    dy = torch.randn_like(x)
    x.requires_grad_()

    def work():
        module.zero_grad()
        x.grad = None
        module(x).backward(dy)

    return seconds_of(work)


def step_seconds(ffn, layers, sequences):
    model = made(lambda: Llama(layers, ffn))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH), device="cuda")
    labels = torch.randint(VOCABULARY, (sequences, LENGTH), device="cuda")

    def work():
        optimizer.zero_grad()
        model(tokens, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return seconds_of(work)


def loads(experts, hot):
    """One expert has `hot` times the mean, as bench_gpu's skewed steps."""
    share = hot / experts
    rest = torch.full((experts,), (1 - share) / (experts - 1))
    rest[0] = share
    return rest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("nothing measured by PyTorch: it sees no GPU")
        return
    torch.manual_seed(1)
    print(f"\n{'PyTorch ' + torch.__version__:<48} {'ms':>10} {'tokens/s':>10}")

    def show(name, measure):
        torch.cuda.empty_cache()
        try:
            seconds = measure()
        except (RuntimeError, AttributeError) as failure:
            print(f"{name:<48} not measured: {str(failure).splitlines()[0][:80]}")
            return
        print(f"{name:<48} {1e3 * seconds:>10.2f} {options.sequences * LENGTH / seconds:>10.0f}",
              flush=True)

    paths = (("expert loop", ExpertLoop), ("grouped", Grouped))
    for experts, top_k in ((8, 2), (16, 4)):
        mixture = f"{top_k}/{experts}"
        for path, kind in paths:
            def ffn(hot=1.0, kind=kind, experts=experts, top_k=top_k):
                return kind(experts, top_k, loads(experts, hot).to("cuda"))

            show(f"MoE layer {mixture}, {path}", lambda: layer_seconds(ffn, options.sequences))
            for hot, skewed in ((1.0, ""), (4.0, ", skewed")):
                show(f"step {mixture}, {options.layers} layers{skewed}, {path}",
                     lambda hot=hot: step_seconds(lambda: ffn(hot), options.layers,
                                                  options.sequences))
    show(f"step dense, {options.layers} layers",
         lambda: step_seconds(DenseFfn, options.layers, options.sequences))


if __name__ == "__main__":
    main()
