"""What does hoisting, and what does fusing, save a dynamical VAE?

python benchmarks/recurrence.py                    # CPU: whole models, hoisted against all in the loop, and nn.LSTM
python benchmarks/recurrence.py --device cuda      # GPU: the chains, fused against everything else
python benchmarks/recurrence.py --tables           # only write the table from the rows

Writes `results/recurrence.json` (`rows` of chain, backend, device, dtype, B, T, H, Z, pass, ms) and
`results/recurrence.md`. Passes take turns, medians count; on a CPU milliseconds are of processor time, one thread.

Whole models: an embedding of x, the recurrent networks over it, the latent chain, an emission and the loss, with the
same weights in every form and losses that agree. `in the loop` computes all of it date by date, as most code does;
`hoisted` leaves only the latent chain in the loop.

Chains alone, few rows: the walk of `hoisted` against the same loop scripted, which needs no compiler where it runs and
is differentiated by autograd. Chains are random ones of `cropgen.kernels.measure`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cropgen.core.files import write_text
from cropgen.kernels.dispatch import resolve_kernel
from cropgen.kernels.measure import Size, chain_pass, interleaved, learnt, loss_of, random_chain
from cropgen.kernels.recurrence import hoisted, reference
from cropgen.kernels.recurrence.hoisted import pre_activations
from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, Head

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "recurrence.json"
BANDS, STEPS, UNITS, LATENT = 10, 70, 128, 16
BATCHES = {16: 15, 256: 5, 1024: 3}
CHAIN_BATCHES, CHAIN_ROUNDS = (16, 64), 21
GPU_BATCHES = (512, 2048)
FEW_ROWS = 64  # up to which the library's LSTM is the faster layer


class SRNN(nn.Module):
    """A whole SRNN: LSTM over x, LSTM back over (x, h), latent chain, emission."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(BANDS, UNITS)
        self.memory, self.future = nn.LSTM(UNITS, UNITS), nn.LSTM(2 * UNITS, UNITS)
        self.p, self.q = _Perceptron(UNITS, LATENT), _Perceptron(UNITS, LATENT)
        self.emission = nn.Sequential(nn.Linear(UNITS + LATENT, UNITS), nn.Tanh(), nn.Linear(UNITS, BANDS))

    def hoisted(self, x: Tensor, noise: Tensor) -> Tensor:
        seen = torch.tanh(self.embed(x))
        before = torch.cat([torch.zeros_like(seen[:1]), seen[:-1]])
        if x.shape[1] <= FEW_ROWS:
            h = self.memory(before)[0]
            a = self.future(torch.cat([seen, h], -1).flip(0))[0].flip(0)
        else:
            h = hoisted.run_cell(_layer_of(self.memory, UNITS), (before,))
            a = hoisted.run_cell(_layer_of(self.future, UNITS, UNITS), (seen, h), reverse=True)
        chain = Chain(self.p.head(), self.q.head(), x.new_zeros(LATENT), 0.9, -1.0)
        path = hoisted.run_chain(chain, ChainInputs((h,), (a,), x.new_ones(len(x), 1, 1), noise))
        return _loss(x, self.emission(torch.cat([h, path.z], -1)), path)

    def in_the_loop(self, x: Tensor, noise: Tensor) -> Tensor:
        forward, back = _cell_of(self.memory), _cell_of(self.future)
        seen = x.new_zeros(x.shape[1], UNITS)
        state, hs, later, parts, decoded = (seen, seen), [], [], [], []
        for now in x:
            state = forward(seen, state)
            hs.append(state[0])
            seen = torch.tanh(self.embed(now))
        state = (torch.zeros_like(seen), torch.zeros_like(seen))
        for now, h in zip(x.flip(0), reversed(hs), strict=True):
            state = back(torch.cat([torch.tanh(self.embed(now)), h], -1), state)
            later.append(state[0])
        z = x.new_zeros(x.shape[1], LATENT)
        for h, a, draw in zip(hs, reversed(later), noise, strict=True):
            z, *others = _step(self.p(h, z), self.q(a, z), 0.9 * z, draw)
            parts.append((z, *others))
            decoded.append(self.emission(torch.cat([h, z], -1)))
        return _loss(x, torch.stack(decoded), ChainPath(*(torch.stack(part) for part in zip(*parts, strict=True))))


class VRNN(nn.Module):
    """A whole VRNN: GRU over (x, z) whose state feeds prior, posterior and emission."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(BANDS, UNITS)
        self.memory = nn.GRUCell(UNITS + LATENT, UNITS)
        self.p, self.q = _Perceptron(0, UNITS), _Perceptron(UNITS, UNITS)
        self.emission = nn.Sequential(nn.Linear(UNITS + LATENT, UNITS), nn.Tanh(), nn.Linear(UNITS, BANDS))

    def hoisted(self, x: Tensor, noise: Tensor) -> Tensor:
        seen = torch.tanh(self.embed(x))
        before = torch.cat([torch.zeros_like(seen[:1]), seen[:-1]])
        outer, inner, bias = self.memory.weight_ih.T, self.memory.weight_hh.T, self.memory.bias_hh
        both = torch.cat([bias[: 2 * UNITS], torch.zeros_like(bias[2 * UNITS :])])
        cell = Cell((outer[:UNITS],), outer[UNITS:], inner, self.memory.bias_ih + both, bias[2 * UNITS :],
                    x.new_zeros(UNITS))  # fmt: skip
        chain = Chain(self.p.head(), self.q.head(), x.new_zeros(LATENT), 0.0, -1.0, cell)
        path = hoisted.run_chain(chain, ChainInputs((), (seen,), x.new_ones(len(x), 1, 1), noise, (before,)))
        state = path.z.new_zeros(0) if path.state is None else path.state
        return _loss(x, self.emission(torch.cat([state, path.z], -1)), path)

    def in_the_loop(self, x: Tensor, noise: Tensor) -> Tensor:
        state, z = x.new_zeros(x.shape[1], UNITS), x.new_zeros(x.shape[1], LATENT)
        before, parts, decoded = torch.zeros_like(state), [], []
        for now, draw in zip(x, noise, strict=True):
            state = self.memory(torch.cat([before, z], -1), state)
            seen = torch.tanh(self.embed(now))
            z, *others = _step(self.p(None, state), self.q(seen, state), torch.zeros_like(z), draw)
            parts.append((z, *others))
            decoded.append(self.emission(torch.cat([state, z], -1)))
            before = seen
        return _loss(x, torch.stack(decoded), ChainPath(*(torch.stack(part) for part in zip(*parts, strict=True))))


class _Perceptron(nn.Module):
    """One hidden layer over an input and the state."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.width = width
        self.hidden, self.out = nn.Linear(width + state, UNITS), nn.Linear(UNITS, 2 * LATENT)

    def forward(self, seen: Tensor | None, state: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(state if seen is None else torch.cat([seen, state], -1))))

    def head(self) -> Head:
        weight = self.hidden.weight.T
        inputs = (weight[: self.width],) if self.width else ()
        return Head(inputs, weight[self.width :], self.hidden.bias, self.out.weight.T, self.out.bias)


def _step(p: Tensor, q: Tensor, kept: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    drift, change = p.chunk(2, -1)
    shift, ratio = q.chunk(2, -1)
    variance, ratio = -1.0 + reference.bounded(change), reference.bounded(ratio)
    return kept + drift + shift + torch.exp((variance + ratio) / 2) * noise, variance, shift, ratio


def _layer_of(layer: nn.LSTM, *widths: int) -> Cell:
    """The weights of an LSTM over inputs of these widths."""
    outer, inner, bias, other = _weights(layer)
    nothing, initial = inner.new_zeros(0, 4 * UNITS), inner.new_zeros(2 * UNITS)
    return Cell(outer.T.split(widths), nothing, inner.T, bias + other, None, initial)


def _cell_of(layer: nn.LSTM) -> Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    weights = _weights(layer)
    return lambda x, state: torch.lstm_cell(x, state, *weights)


def _weights(layer: nn.LSTM) -> list[Tensor]:
    return [getattr(layer, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]


def _loss(x: Tensor, decoded: Tensor, path: ChainPath) -> Tensor:
    distance = path.shift.square() * torch.exp(-path.transition_log_variance)
    kl = 0.5 * (torch.expm1(path.log_ratio) + distance - path.log_ratio)
    return (x - decoded).square().mean() + kl.mean()


def whole_models(batches: set[int]) -> list[dict[str, Any]]:
    """Rows of forward and backward passes of whole models on the CPU."""
    rows, device = [], torch.device("cpu")
    for batch in sorted(batches):
        torch.manual_seed(0)
        x, noise = torch.randn(STEPS, batch, BANDS), torch.randn(STEPS, batch, LATENT)
        library, wide = nn.LSTM(UNITS, UNITS), torch.randn(STEPS, batch, UNITS)
        passes = {"lstm nn.LSTM": _pass(library, lambda layer=library, wide=wide: layer(wide)[0].square().mean())}
        for name, model in (("srnn", SRNN()), ("vrnn", VRNN())):
            difference = float((model.hoisted(x, noise) - model.in_the_loop(x, noise)).detach().abs())
            if not difference < 1e-4:
                raise SystemExit(f"{name}: the forms differ by {difference}")
            for form, loss in (("in the loop", model.in_the_loop), ("hoisted", model.hoisted)):
                passes[f"{name} {form}"] = _pass(model, lambda loss=loss, x=x, noise=noise: loss(x, noise))
        for name, ms in interleaved(passes, BATCHES.get(batch, 3), device).items():
            chain, _, backend = name.partition(" ")
            rows.append(_row(chain, backend, device, "float32", batch, ms, UNITS))
            print(rows[-1], flush=True)
    return rows


def walk(
    pre: Tensor, state: Tensor, out: Tensor, bias: Tensor, start: Tensor, mask: Tensor, noise: Tensor, keep: float,
    base: float,
) -> list[Tensor]:  # fmt: skip
    """The loop of the SRNN's chain over hoisted pre-activations, as TorchScript takes it."""
    z, size = start, start.shape[-1]
    zs, variances, shifts, ratios = [z], [z], [z], [z]
    for t in range(len(noise)):
        answer = torch.tanh(pre[t] + z @ state) @ out + bias
        variance = base + 3.0 * torch.tanh(answer[..., size : 2 * size] / 3.0)
        shift = mask[t] * answer[..., 2 * size : 3 * size]
        ratio = mask[t] * (3.0 * torch.tanh(answer[..., 3 * size :] / 3.0))
        z = keep * z + answer[..., :size] + shift + torch.exp((variance + ratio) / 2.0) * noise[t]
        zs.append(z)
        variances.append(variance)
        shifts.append(shift)
        ratios.append(ratio)
    return [torch.stack(zs[1:]), torch.stack(variances[1:]), torch.stack(shifts[1:]), torch.stack(ratios[1:])]


def chains_alone() -> list[dict[str, Any]]:
    """Rows of forward and backward passes of the SRNN's chain at few rows: hoisted, and scripted."""
    device, rows = torch.device("cpu"), []
    scripted: Any = torch.jit.script(walk)
    for batch in CHAIN_BATCHES:
        chain, inputs = random_chain("srnn", Size(batch, STEPS, UNITS, LATENT), dtype=torch.float32, device=device)
        leaves = learnt(chain, inputs)

        def run(chain: Chain = chain, inputs: ChainInputs = inputs) -> ChainPath:
            state = torch.cat([chain.transition.state, chain.inference.state], -1)
            out = torch.block_diag(chain.transition.out, chain.inference.out)
            bias = torch.cat([chain.transition.out_bias, chain.inference.out_bias])
            start = chain.initial.expand(inputs.noise.shape[1:])
            pre = pre_activations(chain, inputs)[0]
            kept = (chain.retention, chain.log_variance)
            return ChainPath(*scripted(pre, state, out, bias, start, inputs.mask, inputs.noise, *kept))

        difference = float((run().z - hoisted.run_chain(chain, inputs).z).detach().abs().max())
        if not difference < 1e-4:
            raise SystemExit(f"the scripted chain differs by {difference}")
        passes = {
            "hoisted": chain_pass("srnn", "hoisted", Size(batch, STEPS, UNITS, LATENT), device),
            "scripted": lambda run=run, leaves=leaves: torch.autograd.grad(loss_of(run()), leaves, allow_unused=True),
        }
        for name, ms in interleaved(passes, CHAIN_ROUNDS, device).items():
            rows.append(_row("srnn, chain alone", name, device, "float32", batch, ms, UNITS))
            print(rows[-1], flush=True)
    return rows


def _pass(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    parameters = list(module.parameters())
    return lambda: torch.autograd.grad(loss(), parameters)


def on_gpu(device: torch.device) -> list[dict[str, Any]]:
    """Rows of the chains alone on a GPU: reference, hoisted, under a CUDA graph, compiled, fused, and cuDNN's GRU."""
    rows = []
    for batch in GPU_BATCHES:
        for units in (64, 128):
            size = Size(batch, STEPS, units, LATENT)
            layer, seen = nn.GRU(units, units).to(device), torch.randn(STEPS, batch, units, device=device)
            passes: dict[str, Callable[[], object]] = {
                "gru cuDNN": _pass(layer, lambda layer=layer, seen=seen: layer(seen)[0].square().mean())
            }
            for name in ("srnn", "dkf", "dmm", "vrnn", "rvae"):
                for kernel in ("reference", "hoisted", "triton"):
                    passes[f"{name} {kernel}"] = chain_pass(name, kernel, size, device)
                passes[f"{name} hoisted, CUDA graph"] = _graphed(passes[f"{name} hoisted"], device)
                passes[f"{name} compiled"] = _compiled(name, size, device)
            for name, ms in interleaved(passes, 20, device).items():
                chain, _, backend = name.partition(" ")
                factors = "tf32" if torch.backends.cudnn.allow_tf32 and backend in ("triton", "cuDNN") else "float32"
                rows.append(_row(chain, backend, device, factors, batch, ms, units))
                print(rows[-1], flush=True)
    return rows


def _graphed(once: Callable[[], object], device: torch.device) -> Callable[[], object]:
    side = torch.cuda.Stream(device)
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def _compiled(name: str, size: Size, device: torch.device) -> Callable[[], object]:
    chain, inputs = random_chain(name, size, dtype=torch.float32, device=device)
    run, leaves = torch.compile(reference.run_chain), learnt(chain, inputs)
    return lambda: torch.autograd.grad(loss_of(run(chain, inputs)), leaves, allow_unused=True)


def _row(
    chain: str, backend: str, device: torch.device, dtype: str, batch: int, ms: float, units: int
) -> dict[str, Any]:
    return {"chain": chain, "backend": backend, "device": device.type, "dtype": dtype, "B": batch, "T": STEPS,
            "H": units, "Z": LATENT, "pass": "forward + backward", "ms": round(ms, 3)}  # fmt: skip


def table(document: dict[str, Any]) -> str:
    """Markdown of the rows."""
    rows = document["rows"]
    found = {(row["device"], row["chain"], row["backend"], row["B"]): row["ms"] for row in rows}
    lines = [f"Command: `python benchmarks/recurrence.py`. CPU: {document['cpu']}, one thread; milliseconds of "
             f"processor time, T = {STEPS}, H = {UNITS}, Z = {LATENT}, forward + backward.", "",
             "| B | model | in the loop | hoisted | faster | one `nn.LSTM` | hoisted / `nn.LSTM` |",
             "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for batch in BATCHES:
        for chain in ("srnn", "vrnn"):
            loop, fast = (found.get(("cpu", chain, form, batch)) for form in ("in the loop", "hoisted"))
            lstm = found.get(("cpu", "lstm", "nn.LSTM", batch))
            if loop and fast and lstm:
                lines.append(f"| {batch} | `{chain}` | {loop:.1f} | {fast:.1f} | {loop / fast:.2f} × | {lstm:.1f} "
                             f"| {fast / lstm:.2f} |")  # fmt: skip
    alone = [(batch, *(found.get(("cpu", "srnn, chain alone", form, batch)) for form in ("hoisted", "scripted")))
             for batch in CHAIN_BATCHES]  # fmt: skip
    lines += ["", "The SRNN's chain alone, without a compiler: `hoisted` against its loop scripted.", "",
              "| B | hoisted | TorchScript | faster |", "| ---: | ---: | ---: | ---: |"]  # fmt: skip
    lines += [f"| {b} | {fast:.2f} | {slow:.2f} | {fast / slow:.2f} × |" for b, fast, slow in alone if fast and slow]
    gpu = [row for row in rows if row["device"] == "cuda"]
    lines += ["", f"GPU: {document['gpu'] or 'not measured yet'}."]
    if gpu:
        lines += ["", "| chain | kernel | factors | B | H | ms |", "| --- | --- | --- | ---: | ---: | ---: |"]
        for row in gpu:
            cells = (f"`{row['chain']}`", row["backend"], row["dtype"], row["B"], row["H"], f"{row['ms']:.3f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the recurrence of the dynamical VAEs.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="only these on the CPU")
    parser.add_argument("--tables", action="store_true", help="only write the table from the rows")
    arguments = parser.parse_args()
    document = (
        json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"cpu": "", "gpu": "", "rows": []}
    )
    if not arguments.tables:
        device = torch.device(arguments.device)
        torch.set_num_threads(1)
        again: set[int] = set(GPU_BATCHES if device.type == "cuda" else arguments.batches)
        kept = [row for row in document["rows"]
                if row["device"] != device.type or (row["B"] not in again and "alone" not in row["chain"])]  # fmt: skip
        if device.type == "cuda":
            resolve_kernel("triton", device)
            document |= {"gpu": torch.cuda.get_device_name(device), "rows": kept + on_gpu(device)}
        else:
            document |= {
                "cpu": f"{platform.machine()}, torch {torch.__version__}",
                "rows": kept + whole_models(again) + chains_alone(),
            }
        write_text(RESULTS, json.dumps(document, indent=1) + "\n")
    write_text(RESULTS.with_suffix(".md"), table(document))


if __name__ == "__main__":
    sys.exit(main())
