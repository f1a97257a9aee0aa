"""Deep Markov model on time-ordered innovations."""

from __future__ import annotations

import torch
from torch import nn

from cropgen.kernels.recurrence.reference import Chain
from cropgen.models.base import InputSpec
from cropgen.models.dvaes.dkf import DKF, DKFOptions
from cropgen.models.layers.latent_dynamics import LatentHead

_FIRST_GATE = -2.0


class DMMOptions(DKFOptions):
    """Options of `dmm`."""


class DMM(DKF):
    """A deep Markov model around the tied Gaussian: the deep Kalman filter with a gated transition and a combiner.

    With u_t, o_t, o_{y,t} and the emission as in `dkf`, and σ the logistic function,

        p(x, z | u) = Π p(e_t | z_t) p(z_t | z_{t−1}, u_t),   q(z | x, u) = Π q(z_t | z_{t−1}, o_t, u_t)

        (f, a, γ) = perceptron(z_{t−1}, u_t),   g = σ(γ)
        p(z_t | z_{t−1}, u_t) = N((1 − g) r z_{t−1} A + g f, diag exp(λ₀ + a))
        c_t = tanh(W z_{t−1} + b) + U o_t + V (e_t − o_{y,t}) + w_y
        q(z_t | z_{t−1}, x)   = N(p's mean + m_t δ(c_t), p's log-variance + m_t ρ(c_t)),   δ and ρ linear

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t) − KL(q(z_t | z_{t−1}, x) ‖ p(z_t | z_{t−1}, u_t))]

    The gate lets each latent dimension be linear or not, date by date; A begins at the identity and the gate nearly
    shut. δ, ρ and the emission begin at zero, so the model begins exactly at the tied Gaussian. z is (G, S, B, K, Z).

    Reference:
        Structured Inference Networks for Nonlinear State Space Models, Krishnan, Shalit and Sontag, 2017.
    """

    Settings = DMMOptions

    def __init__(self, spec: InputSpec, options: DMMOptions) -> None:
        super().__init__(spec, options)
        self.linear = nn.Parameter(torch.eye(options.latent))

    def heads(self, options: DKFOptions) -> tuple[LatentHead, LatentHead]:
        k, hidden, latent, bands = self.spec.classes, options.hidden, options.latent, len(self.spec.bands)
        transition = LatentHead(self.control_width, 0, k, latent, hidden, gated=True)
        with torch.no_grad():
            transition.out_bias[2 * latent :] = _FIRST_GATE
        return transition, LatentHead(self.observer.width, bands, k, latent, hidden, combine=True)

    def chain(self) -> Chain:
        return super().chain()._replace(linear=self.linear)
