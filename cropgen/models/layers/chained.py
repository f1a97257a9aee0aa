"""Dynamical models whose latent states form one chain that a kernel runs: z_t is drawn given what came before it.

What a row brings to the chain is computed for all dates at once: features of the past for the transition, features of
the season for the inference. The chain itself is `cropgen.kernels`; likelihood and divergences follow from its path.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.kernels.dispatch import check_kernel, resolve_kernel, select_kernel
from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, Head
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.layers.dynamical import DynamicalModel, DynamicalOptions, View, Walk, control_width
from cropgen.models.layers.latent_dynamics import Emission, LatentHead, kl_per_date

Direction = Literal["forward", "backward", "both"]


class ChainOptions(DynamicalOptions):
    """Options of the models that run a chain."""

    retention: float = Field(0.9, ge=0, lt=1, description="share of the latent state kept from slot to slot at first")
    residual: bool = Field(
        True, description="q departs from the transition; false: q is built without it, which needs retention=0"
    )
    kernel: str = Field("auto", description="what runs the recurrence: auto, or the name of a kernel")


class Observer(nn.GRU):
    """A recurrent network over the season, forward, backward or both ways: o_t of x_≤t, x_≥t or x.

    Arguments:
        features: of a date.
        units: in each direction.
        direction: of time.
    """

    def __init__(self, features: int, units: int, direction: Direction) -> None:
        super().__init__(features, units, bidirectional=direction == "both")
        self.backward_only = direction == "backward"

    @property
    def width(self) -> int:
        """Size of o_t."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    def observe(self, x: Tensor) -> Tensor:
        """(G, B, width) for x (G, B, ·)."""
        return self(x.flip(0))[0].flip(0) if self.backward_only else self(x)[0]


class ChainModel(DynamicalModel):
    """Base of the models with a chain. A subclass makes, in its own order, the modules

        transition   perceptron of p(z_t | ·), inputs: context and class
        inference    perceptron of q(z_t | ·), inputs: o_t, the surprise e_t − o_{y,t} − d_{y,t}, and class
        initial      z₀
        emission     mean and log-variance of e_t

    and says what the past gives (`context`), what the season gives (`observe`), and what the emission sees (`decoded`).

    Raises:
        UsageError: there is no such kernel, or q is to be built without the transition and does not begin where p does.
    """

    transition: LatentHead
    inference: LatentHead
    initial: Tensor
    emission: Emission
    remembers = True
    """Whether the prior of z_t depends on the states before."""

    def __init__(self, spec: InputSpec, options: ChainOptions) -> None:
        super().__init__(spec, options)
        check_kernel(options.kernel)
        self._learnt_with = ""
        if self.direct and options.start == "tgem" and self.retention:
            raise UsageError(
                f"q is built without the transition: with retention={self.retention:g} they differ at the start, which "
                "is then not the tied Gaussian",
                hint="add --set retention=0, or --set start=none for the textbook form",
            )

    @property
    def settings(self) -> ChainOptions:
        return cast(ChainOptions, self.options)

    @property
    def retention(self) -> float:
        """r, the share of the latent state that is kept."""
        return self.settings.retention

    @property
    def direct(self) -> bool:
        """Whether q is built without the transition."""
        return not self.settings.residual

    def check_device(self, device: torch.device) -> None:
        self._learnt_with = resolve_kernel(self.settings.kernel, device, self.chain())

    def finish(self, data: TrainingData, context: Context) -> None:
        super().finish(data, context)
        context.facts["kernel"] = self._learnt_with or self._kernel_on(self.shift.device, self.chain())

    def run_chain(self, chain: Chain, inputs: ChainInputs) -> ChainPath:
        """The path of a chain by the kernel of the options; a trained model does without a GPU where there is none.

        Raises:
            DeviceError: the model is learning with the fused kernel, which cannot run this chain here.
        """
        kernel = self._kernel_on(inputs.noise.device, chain)
        if self.training:
            self._learnt_with = kernel
        return select_kernel(kernel)(chain, inputs)

    def _kernel_on(self, device: torch.device, chain: Chain) -> str:
        """The kernel for a device: the fused one must be there only while learning."""
        asked = self.settings.kernel
        return resolve_kernel("auto" if asked == "triton" and not self.training else asked, device, chain)

    def context(self, before: Tensor, control: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What transition and emission see of the past besides z: (G, B, ·), and what is remembered for the next date.

        Arguments:
            before: (G, B, C + 1) the innovations and the mask of the slot before.
            control: (G, B, U) u_t.
            memory: of the call that ended at the slot before.
        """
        return control, None

    def observe(self, view: View) -> Tensor:
        """(G, B, ·) what q sees of the season at each date."""
        raise TypeError(f"{type(self).__name__} does not say what its inference sees")

    def cell(self) -> Cell | None:
        """The recurrent cell of the chain."""
        return None

    def cell_inputs(self, before: Tensor, control: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the cell; `before` and `control` (T, …, ·), `which` indicators of the class."""
        return ()

    def decoded(self, path: ChainPath) -> Tensor:
        """(T, ..., ·) what the emission sees of the latent states."""
        return path.z

    def prior_head(self) -> Head:
        """Weights of the perceptron of p."""
        return self.transition.weights()

    def prior_inputs(self, which: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the perceptron of p, in the order of its weights."""
        return self.transition.inputs(which, context)

    def chain(self) -> Chain:
        """Everything that defines the chain."""
        r = self.retention
        return Chain(
            self.prior_head(),
            self.inference.weights(),
            self.initial.to(self.shift),
            r,
            math.log1p(-(r**2)),
            cell=self.cell(),
            direct=self.direct,
        )

    def inputs(self, view: View, context: Tensor, noise: Tensor) -> ChainInputs:
        """What the chain runs over, for context (G, 1, B, 1, ·)."""
        return ChainInputs(
            self.prior_inputs(view.each, context),
            self.inference.inputs(view.each, self.observe(view)[:, None, :, None], view.surprise),
            view.mask[..., None],
            noise,
            self.cell_inputs(view.before[:, None, :, None], view.control[:, None, :, None], view.each),
        )

    def walk(self, view: View, noise: Tensor) -> Walk:
        context = self.context(view.before, view.control)[0][:, None, :, None]
        path = self.run_chain(self.chain(), self.inputs(view, context, noise))
        return self.emitted(view, path, self.emission(self.decoded(path), context, view.each))

    def divergence(self, view: View, walk: Walk, noise: Tensor, generator: torch.Generator) -> Tensor:
        """The KL of each date, averaged over priors that look 1 to D dates ahead.

        The prior of depth d draws z_{t−d+1}, …, z_{t−1} from the transition, beginning at z_{t−d} of q; q itself is
        held still for d > 1.

        Reference: Learning Latent Dynamics for Planning from Pixels, Hafner et al., 2019.
        """
        total, depth = kl_per_date(walk.path), self.settings.overshooting
        if depth == 1 or not self.remembers:
            return total
        log_variance = (walk.path.transition_log_variance + walk.path.log_ratio).detach()
        noise = noise[-len(log_variance) :]
        mean = walk.path.z.detach() - torch.exp(log_variance / 2) * noise
        context = self.context(view.before, view.control)[0][:, None, :, None]
        inputs = self.inputs(view, context, noise)
        ahead = self._one_ahead(walk.path, inputs, generator)[0]
        for _ in range(1, depth):
            ahead, expected = self._one_ahead(ahead, inputs, generator)
            ratio = log_variance - ahead.transition_log_variance
            distance = (mean - expected).square() * torch.exp(-ahead.transition_log_variance)
            total = total + 0.5 * view.mask * (torch.expm1(ratio) + distance - ratio).sum(-1)
        return total / depth

    def _one_ahead(self, path: ChainPath, inputs: ChainInputs, generator: torch.Generator) -> tuple[ChainPath, Tensor]:
        """A draw of z_t from the transition at every date at once, each from z_{t−1} of `path`; and its mean."""
        chain = self.chain()
        z = torch.cat([chain.initial.expand_as(path.z[:1]), path.z[:-1]])
        chain = chain._replace(initial=z[:, 0])
        if chain.cell is not None and path.state is not None:
            state = torch.cat([chain.cell.initial.expand_as(path.state[:1]), path.state[:-1]])
            chain = chain._replace(cell=chain.cell._replace(initial=state[:, 0]))
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=generator.device).to(z.device)
        step = ChainInputs(
            tuple(x.transpose(0, 1) for x in inputs.transition),
            tuple(x.transpose(0, 1) for x in inputs.inference),
            torch.zeros_like(inputs.mask).transpose(0, 1),
            noise.transpose(0, 1),
            tuple(x.transpose(0, 1) for x in inputs.cell),
        )
        drawn = self.run_chain(chain, step)
        ahead = ChainPath(*(part.transpose(0, 1) for part in drawn if part is not None))
        return ahead, ahead.z - torch.exp(ahead.transition_log_variance / 2) * noise

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        control, centre, which = self.season_to_draw(y)
        past = torch.zeros(1, len(y), centre.shape[-1] + 1, dtype=centre.dtype)
        chain, memory, season = self.chain(), None, []
        chain = chain._replace(initial=chain.initial.expand(len(y), -1))
        for t in range(len(control)):
            past = self.shown(past, control[t : t + 1])
            context, memory = self.context(past, control[t : t + 1], memory)
            noise = torch.randn((1, len(y), chain.initial.shape[-1]), generator=generator, dtype=centre.dtype)
            noise = temperature * self.settings.state_temperature * noise
            path = self._unobserved(chain, past, control[t : t + 1], context, which, noise)
            chain = chain._replace(initial=path.z[0])
            if chain.cell is not None and path.state is not None:
                chain = chain._replace(cell=chain.cell._replace(initial=path.state[0]))
            e = self.draw_emission(t, centre[t], self.decoded(path)[0], context[0], which[0], temperature, generator)
            past = torch.cat([e, torch.ones_like(e[:, :1])], -1)[None]
            season.append(e)
        return torch.stack(season, 1).flatten(1)

    def draw_emission(
        self,
        t: int,
        centre: Tensor,
        decoded: Tensor,
        context: Tensor,
        which: Tensor,
        temperature: float,
        generator: torch.Generator,
    ) -> Tensor:
        """(B, C) innovations of slot t given what the emission sees (B, ·)."""
        mean, change = self.emission(decoded, context, which)
        return self.draw_date(t, centre, mean, change, temperature, generator)

    def _unobserved(
        self, chain: Chain, past: Tensor, control: Tensor, context: Tensor, which: Tensor, noise: Tensor
    ) -> ChainPath:
        """One unobserved step of the chain: past, control, context (1, B, ·), indicators (1, B, K), noise (1, B, Z)."""
        nothing = [noise.new_zeros(1, 1, len(weight)) for weight in chain.inference.inputs]
        inputs = ChainInputs(
            self.prior_inputs(which, context),
            tuple(nothing),
            noise.new_zeros(1, 1, 1),
            noise,
            self.cell_inputs(past, control, which),
        )
        return self.run_chain(chain, inputs)


def emission_on(spec: InputSpec, options: DynamicalOptions, context: int, seen: int) -> Emission:
    """An emission that sees `seen` values of the latent states, and `context` and the control of a date."""
    return Emission(context + control_width(spec), seen, spec.classes, options.hidden, len(spec.bands))
