"""Checks of the fused kernels that need a process of their own; prints a JSON object.

python -m tests.kernels.fused_checks equal small|wide KIND…    # TRITON_INTERPRET=1: largest errors against float64
python -m tests.kernels.fused_checks cell|operators|autocast   # likewise
python -m tests.kernels.fused_checks compile CAPABILITY UNITS PRECISION KERNEL…  # registers, shared memory and spills
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cropgen.kernels.recurrence import reference, triton
from cropgen.kernels.recurrence.reference import ChainPath
from tests.kernels.problems import KINDS, Kind, Shape, gradients, ragged_mask, random_problem

SHAPES = {
    "small": (Shape(2, 3, 5, 3),),
    "wide": (Shape(1, 1, 7, 3), Shape(7, 4, 20, 5, units=24)),
}


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest entry where that is above 1."""
    difference = (found.detach().double() - wanted.detach()).abs().max()
    return float(difference / wanted.detach().abs().max().clamp(min=1))


def errors(kind: Kind, shape: Shape) -> dict[str, float]:
    exact, exact_inputs = random_problem(kind, shape)
    chain, inputs = random_problem(kind, shape, dtype=torch.float32)
    wanted, found = reference.run_chain(exact, exact_inputs), triton.run_chain(chain, inputs)
    pairs = [(left, right) for left, right in zip(found, wanted, strict=True) if left is not None and right is not None]
    assert len(pairs) == (5 if kind.cell else 4)
    assert all(left.shape == right.shape for left, right in pairs)
    of_wanted, of_found = gradients(wanted, exact, exact_inputs), gradients(found, chain, inputs)
    return {
        "path": max(error(left, right) for left, right in pairs),
        "gradients": max(error(of_found[name], of_wanted[name]) for name in of_wanted),
    }


def equal(size: str, *names: str) -> dict[str, dict[str, float]]:
    return {f"{name} {shape}": errors(KINDS[name], shape) for name in names for shape in SHAPES[size]}


def cell() -> dict[str, dict[str, float]]:
    found = {}
    for masked in (False, True):
        for shape in (Shape(1, 1, 4, 2), Shape(9, 5, 4, 2, units=18)):
            answers, of = [], []
            for kernel, dtype in ((reference, torch.float64), (triton, torch.float32)):
                chain, inputs = random_problem(Kind(cell="gru"), shape, dtype=dtype)
                assert chain.cell is not None
                mask = ragged_mask(shape.steps, shape.rows, torch.Generator().manual_seed(1))
                mask = mask.to(dtype)[:, None, :, None, None]
                states = kernel.run_cell(chain.cell, inputs.cell, mask if masked else None)
                learnt = [*chain.cell.inputs, chain.cell.hidden, chain.cell.bias, chain.cell.hidden_bias,
                          chain.cell.initial, inputs.cell[0]]  # fmt: skip
                weight = torch.cos(torch.arange(states.numel()).double()).view_as(states).to(dtype)
                answers.append(states)
                of.append(torch.autograd.grad((states * weight).sum(), learnt))
            found[f"{shape} {masked}"] = {
                "path": error(answers[1], answers[0]),
                "gradients": max(error(left, right) for left, right in zip(of[1], of[0], strict=True)),
            }
    return found


def captured(operator: str, kind: Kind) -> tuple[Any, ...]:
    """The arguments with which a small problem calls an operator."""
    from cropgen.kernels.recurrence import fused_cell, fused_chain

    module = {"fused_chain": fused_chain, "fused_cell": fused_cell}[operator]
    chain, inputs = random_problem(kind, Shape(3, 2, 4, 2), dtype=torch.float32)
    kept, original = [], getattr(module, operator)

    def keep(*arguments: Any) -> Any:
        kept.append(
            tuple(a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments)
        )
        return original(*arguments)

    setattr(module, operator, keep)
    if operator == "fused_chain":
        triton.run_chain(chain, inputs)
    else:
        assert chain.cell is not None
        triton.run_cell(chain.cell, inputs.cell)
    setattr(module, operator, original)
    return kept[0]


def operators() -> dict[str, str]:
    found = {}
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for name, operator, kind in (
        ("chain", "fused_chain", KINDS["everything"]),
        ("cell", "fused_cell", Kind(cell="gru")),
    ):
        arguments = captured(operator, kind)
        called = getattr(torch.ops.cropgen, operator).default
        results = torch.library.opcheck(called, arguments, test_utils=tests)
        found[name] = ", ".join(sorted(set(results.values())))
    chain, inputs = random_problem(KINDS["srnn"], Shape(1, 2, 4, 2), dtype=torch.float32)
    first = torch.autograd.grad(triton.run_chain(chain, inputs).z.square().sum(), chain.initial, create_graph=True)[0]
    try:
        torch.autograd.grad(first.sum(), chain.transition.state)
    except RuntimeError:
        found["second derivative"] = "refused"
    return found


def autocast() -> dict[str, Any]:
    kind, shape = KINDS["vrnn"], Shape(3, 4, 8, 3)
    exact, exact_inputs = random_problem(kind, shape)
    chain, inputs = random_problem(kind, shape, dtype=torch.float32)
    wanted = reference.run_chain(exact, exact_inputs)
    with torch.autocast("cpu", torch.float16):
        found = triton.run_chain(chain, inputs)
    parts = zip(ChainPath(*found), wanted, strict=True)
    worst = max(error(left, right) for left, right in parts if left is not None and right is not None)
    return {"path": worst, "dtype": str(found.z.dtype)}


def machine_code(capability: str, units: str, precision: str, *names: str) -> dict[str, dict[str, int]]:
    """Registers, bytes of spilled registers and bytes of shared memory of the kernels as they are launched."""
    return {
        f"{name} {way}": figures(*kernel_of(name, way, int(units), precision), int(capability), precision)
        for name in names
        for way in ("forward", "backward")
    }


def kernel_of(name: str, way: str, units: int, precision: str) -> tuple[Any, dict[str, Any]]:
    """A kernel and the constants with which the operators launch it, for 16 latent dimensions."""
    from cropgen.kernels.recurrence import fused_cell, fused_chain, fused_launch

    if name == "gru":
        constants = fused_cell._constants(torch.empty(1, units), torch.empty(1), precision)
        return getattr(fused_launch, f"CELL_{way.upper()}"), constants
    kind, latent = KINDS[name], 16
    state = units if kind.cell else latent
    out_p = torch.empty(0 if kind.bare else units, (3 if kind.gated else 2) * latent)
    first_h, linear = torch.empty(1, units) if kind.cell else None, torch.empty(latent, latent) if kind.gated else None
    _, constants = fused_chain._constants(
        torch.empty(state, units), out_p, torch.empty(1, latent), first_h, linear, kind.direct, kind.combine, precision
    )
    return getattr(fused_launch, f"CHAIN_{way.upper()}"), constants


def figures(kernel: Any, constants: dict[str, Any], capability: int, precision: str) -> dict[str, int]:
    """Compile for a GPU that need not be there, and read what the assembler used."""
    import triton as compiler
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= {"BM": 16}
    places = {p.name: i for i, p in enumerate(kernel.params)}
    types = {p.name: "constexpr" if p.is_constexpr else type_of(p.name, precision) for p in kernel.params}
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(places[name],): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for name, i in places.items() if name not in ("steps", *constants)},
    )
    built = compiler.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = next(Path(compiler.__file__).parent.rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", said)}
    return {"registers": used["REG"], "spilled": used["STACK"], "shared": built.metadata.shared}


def type_of(argument: str, precision: str) -> str:
    if argument in ("steps", "rows", "last", "P", "Q", "Z", "H") or argument.endswith("_time"):
        return "i32"
    if argument.endswith("_row"):
        return "*i32"
    return "*fp16" if precision == "fp16" and argument in ("squashed_path", "memory_path") else "*fp32"


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, *rest = sys.argv[1:]
    tasks = {"equal": equal, "cell": cell, "operators": operators, "autocast": autocast, "compile": machine_code}
    sys.stdout.write(json.dumps(tasks[task](*rest)))
