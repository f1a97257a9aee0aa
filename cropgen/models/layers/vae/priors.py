"""Priors p(z) of one latent vector: log-density and draws.

    standard         N(0, I)
    mog              1/M Σ_m N(z; μ_m, diag σ_m²)
    vamp             1/M Σ_m q(z | u_m), u_m learnt pseudo-inputs of the encoder
    realnvp          a flow of couplings, fast both ways
    autoregressive   p(z) = Π_i p(z_i | z_<i), slow draws

With another prior than `standard` the divergence has no closed form: KL = E_q[log q(z | x) − log p(z)], at the draws.
It may rise while the bound does: a richer prior makes it cheap to reconstruct better.

References:
    VAE with a VampPrior, Tomczak and Welling, 2018;
    Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017;
    Variational Lossy Autoencoder, Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever and Abbeel, 2017.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.latent import LatentFlow
from cropgen.models.layers.vae.posteriors import gaussian_log_prob

PriorKind = Literal["standard", "mog", "vamp", "realnvp", "autoregressive"]
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


class Prior(nn.Module):
    """A density over latent vectors (…, Z)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """(…, Z) → (…) log p(z)."""

    @abstractmethod
    def sample(self, rows: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """(rows, Z) draws; the temperature multiplies the standard deviation of the noise."""


def _noise(rows: int, like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn((rows, like.shape[-1]), generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)


class StandardNormal(Prior):
    """N(0, I)."""

    origin: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer("origin", torch.zeros(size))

    def log_prob(self, z: Tensor) -> Tensor:
        return gaussian_log_prob(z, self.origin, self.origin)

    def sample(self, rows: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return temperature * _noise(rows, self.origin, generator)


class EqualMixture(Prior):
    """1/M Σ_m N(z; μ_m, diag σ_m²), the same or another one for every class; a subclass gives the components."""

    @abstractmethod
    def components(self) -> tuple[Tensor, Tensor]:
        """μ and log σ, (M, Z) each, or (K, M, Z) of the classes."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(…, Z) → (…) log p(z); (…, K, Z) → (…, K) log p(z | y) where the classes differ."""
        mean, log_std = self.components()
        return torch.logsumexp(gaussian_log_prob(z[..., None, :], mean, log_std), -1) - math.log(mean.shape[-2])

    @torch.no_grad()
    def sample(
        self, rows: int, generator: torch.Generator, temperature: float = 1.0, y: Tensor | None = None
    ) -> Tensor:
        """(rows, Z) draws, of classes y (rows,) where the classes differ."""
        mean, log_std = self.components()
        count = mean.shape[-2]
        chosen = torch.randint(count, (rows,), generator=generator, device=generator.device).to(mean.device)
        which = (chosen,) if y is None else (y, chosen)
        return mean[which] + temperature * log_std[which].exp() * _noise(rows, mean, generator)


class MixtureOfGaussians(EqualMixture):
    """Components with means and deviations of their own, spread over N(0, I) at the start or all equal to it.

    Arguments:
        size: Z.
        count: M.
        classes: K, of a mixture for every class; 0 for one mixture.
        at_standard: the means are multiplied by a number that begins at 0, which keeps the components apart in what
            they learn although they are N(0, I) at the start.
    """

    def __init__(self, size: int, count: int, *, classes: int = 0, at_standard: bool = False) -> None:
        super().__init__(size)
        shape = (classes, count, size) if classes else (count, size)
        self.mean = nn.Parameter(torch.randn(shape))
        self.log_std = nn.Parameter(torch.zeros(shape))
        self.reach = nn.Parameter(torch.zeros(())) if at_standard else None

    def components(self) -> tuple[Tensor, Tensor]:
        return self.mean if self.reach is None else self.reach * self.mean, self.log_std


class VampPrior(EqualMixture):
    """Components that are the posteriors of M learnt pseudo-inputs.

    The best prior for a bound is the posterior averaged over the data, which this one approaches.

    Arguments:
        size: Z.
        pseudo_inputs: (M, …) at the start, in the form the encoder takes; seasons of training parcels are a good one.
        encode: pseudo-inputs → m and log s, (M, Z) each, or (K, M, Z) of the classes. A function or method of the
            owner: its parameters stay the owner's.
    """

    def __init__(self, size: int, pseudo_inputs: Tensor, encode: Encode) -> None:
        super().__init__(size)
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.clone())
        self._encode = (encode,)

    def components(self) -> tuple[Tensor, Tensor]:
        return self._encode[0](self.pseudo_inputs)


class FlowPrior(Prior):
    """N(0, I) behind a flow that begins at the identity.

    Arguments:
        size: Z.
        kind: realnvp or autoregressive.
        layers: number of layers.
        hidden: width of their networks.
    """

    def __init__(
        self, size: int, kind: Literal["realnvp", "autoregressive"], *, layers: int = 4, hidden: int = 64
    ) -> None:
        super().__init__(size)
        of_flow = "coupling" if kind == "realnvp" else "autoregressive"
        self.flow = LatentFlow(size, layers=layers, hidden=hidden, kind=of_flow)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(z.reshape(-1, self.size)).reshape(z.shape[:-1])

    def sample(self, rows: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return self.flow.sample(rows, generator, temperature=temperature)
