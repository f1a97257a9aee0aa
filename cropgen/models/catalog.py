"""Every model of cropgen: one literal table. Adding a row adds its help, its documentation and its contract tests."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cropgen.core.errors import UsageError

if TYPE_CHECKING:
    from cropgen.models.base import Classifier

Family = Literal["classical", "discriminative", "flow", "vae", "dvae", "pool"]


@dataclass(frozen=True)
class Entry:
    """One model.

    Arguments:
        name: what `--model` takes.
        family: the kind of model.
        target: "module:Class" below `cropgen.models`, imported when the model is used.
        reference: title, authors, year.
        summary: one line for the list.
        generative: gives log p(x, y), so likelihoods, gap filling and samples.
        semi_supervised: learns from unlabelled parcels too.
        gradient: learns by gradient steps.
        needs: package beyond the plain installation that it is built with.
        pixel_sets: looks at pixel sets, which a series has only where it was made with them.
    """

    name: str
    family: Family
    target: str
    reference: str
    summary: str
    generative: bool
    semi_supervised: bool
    gradient: bool
    needs: str = ""
    pixel_sets: bool = False


_BREIZHCROPS = (
    "BreizhCrops: A Time Series Dataset for Crop Type Mapping, Rußwurm, Pelletier, Zollner, Lefèvre and Körner, 2020"
)

CATALOG: tuple[Entry, ...] = (
    Entry("rf", "classical", "classical.rf:RandomForest",
          "Random Forests, Breiman, 2001",
          "random forest on gap-filled bands and vegetation indices",
          generative=False, semi_supervised=False, gradient=False),
    Entry("svm", "classical", "classical.svm:SupportVectorMachine",
          "Support-Vector Networks, Cortes and Vapnik, 1995; Probabilistic Outputs for Support Vector Machines and "
          "Comparisons to Regularized Likelihood Methods, Platt, 1999",
          "radial or linear support vector machine on gap-filled bands and vegetation indices",
          generative=False, semi_supervised=False, gradient=False),
    Entry("hgb", "classical", "classical.hgb:HistogramGradientBoosting",
          "Greedy Function Approximation: A Gradient Boosting Machine, Friedman, 2001; "
          "LightGBM: A Highly Efficient Gradient Boosting Decision Tree, Ke et al., 2017",
          "histogram gradient boosting on gap-filled bands and vegetation indices",
          generative=False, semi_supervised=False, gradient=False),
    Entry("ncc", "classical", "classical.ncc:NearestCentroid",
          "Diagnosis of Multiple Cancer Types by Shrunken Centroids of Gene Expression, Tibshirani, Hastie, Narasimhan "
          "and Chu, 2002",
          "nearest mean season at the dates a parcel shows",
          generative=False, semi_supervised=False, gradient=False),
    Entry("dti", "classical", "classical.dti:DeformablePrototypes",
          "Pixel-wise Agricultural Image Time Series Classification: Comparisons and a Deformable Prototype-based "
          "Approach, Vincent, Ponce and Aubry, 2023",
          "mean seasons that a network shifts in time and level; the best reconstruction names the class",
          generative=False, semi_supervised=False, gradient=True),
    Entry("rotation", "classical", "classical.rotation:Rotation",
          "Assessment of a Markov Logic Model of Crop Rotations for Early Crop Mapping, Osman, Inglada and Dejoux, "
          "2015",
          "the crop that follows the parcel's last known crop; no image is looked at",
          generative=False, semi_supervised=False, gradient=False),
    Entry("hmm", "classical", "classical.hmm:HiddenMarkov",
          "A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition, Rabiner, 1989",
          "stages of the season for every class, passed in one direction, on the true dates",
          generative=True, semi_supervised=False, gradient=False),
    Entry("lda", "classical", "classical.lda:LinearDiscriminant",
          "The Use of Multiple Measurements in Taxonomic Problems, Fisher, 1936; "
          "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004",
          "tied Gaussian classes from augmented labels alone",
          generative=True, semi_supervised=False, gradient=False),
    Entry("qda", "classical", "classical.qda:QuadraticDiscriminant",
          "Regularized Discriminant Analysis, Friedman, 1989",
          "a Gaussian for every class, its covariance shrunk towards the pooled one",
          generative=True, semi_supervised=False, gradient=False),
    Entry("gmm", "classical", "classical.gmm:GaussianMixture",
          "Discriminant Analysis by Gaussian Mixtures, Hastie and Tibshirani, 1996",
          "several Gaussians for every class",
          generative=True, semi_supervised=False, gradient=False),
    Entry("tgem", "classical", "classical.tgem:TiedGaussianEM",
          "Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster, Laird and Rubin, 1977; "
          "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004",
          "tied Gaussian with EM on unlabelled parcels from several starts; the common start of the deep models",
          generative=True, semi_supervised=True, gradient=False),
    Entry("tempcnn", "discriminative", "discriminative.tempcnn:TempCNN",
          "Temporal Convolutional Neural Network for the Classification of Satellite Image Time Series, "
          "Pelletier, Webb and Petitjean, 2019; FixMatch, Sohn et al., 2020",
          "convolutions over time; --set semi=fixmatch adds consistency on unlabelled parcels",
          generative=False, semi_supervised=True, gradient=True),
    Entry("lstm", "discriminative", "discriminative.lstm:LSTM",
          "Long Short-Term Memory, Hochreiter and Schmidhuber, 1997; Rußwurm and Körner, 2017",
          "bidirectional LSTM over observed dates",
          generative=False, semi_supervised=True, gradient=True),
    Entry("gru", "discriminative", "discriminative.gru:GRU",
          "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation, Cho et al., "
          "2014",
          "bidirectional gated recurrent unit over observed dates",
          generative=False, semi_supervised=True, gradient=True),
    Entry("starrnn", "discriminative", "discriminative.starrnn:StarRNN",
          "Gating Revisited: Deep Multi-Layer RNNs That Can Be Trained, Turkoglu, D'Aronco, Wegner and Schindler, 2021",
          "stack of light single-gate recurrences over observed dates",
          generative=False, semi_supervised=True, gradient=True),
    Entry("inceptiontime", "discriminative", "discriminative.inceptiontime:InceptionTime",
          "InceptionTime: Finding AlexNet for Time Series Classification, Ismail Fawaz et al., 2020",
          "convolutions of three lengths side by side in residual blocks",
          generative=False, semi_supervised=True, gradient=True),
    Entry("omniscale", "discriminative", "discriminative.omniscale:OmniScale",
          "Omni-Scale CNNs: a simple and effective kernel size configuration for time series classification, "
          "Tang et al., 2022",
          "convolutions of all prime widths, so of every receptive field",
          generative=False, semi_supervised=True, gradient=True),
    Entry("msresnet", "discriminative", "discriminative.msresnet:MSResNet",
          "Deep Residual Learning for Image Recognition, He, Zhang, Ren and Sun, 2016; BreizhCrops, Rußwurm et al.,"
          " 2020",
          "residual networks of three widths side by side",
          generative=False, semi_supervised=True, gradient=True),
    Entry("transformer", "discriminative", "discriminative.transformer:Transformer",
          "Attention Is All You Need, Vaswani et al., 2017; Self-Attention for Raw Optical Satellite Time Series "
          "Classification, Rußwurm and Körner, 2020",
          "transformer encoder told the true date of every observation",
          generative=False, semi_supervised=True, gradient=True),
    Entry("ltae", "discriminative", "discriminative.ltae:LTAE",
          "Lightweight Temporal Self-Attention for Classifying Satellite Images Time Series, Sainte Fare Garnot and "
          "Landrieu, 2020",
          "lightweight temporal attention: one learnt query per head, true dates",
          generative=False, semi_supervised=True, gradient=True),
    Entry("pse-ltae", "discriminative", "discriminative.pse_ltae:PSELTAE",
          "Satellite Image Time Series Classification with Pixel-Set Encoders and Temporal Self-Attention, Sainte Fare "
          "Garnot, Landrieu, Giordano and Chehata, 2020; Lightweight Temporal Self-Attention, Sainte Fare Garnot and "
          "Landrieu, 2020",
          "pixel-set encoder and lightweight temporal attention; needs a series aggregated with --pixels",
          generative=False, semi_supervised=True, gradient=True, pixel_sets=True),
    Entry("tempcnn2", "discriminative", "discriminative.tempcnn2:TempCNN2",
          "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, Lakshminarayanan, Pritzel and "
          "Blundell, 2017",
          "two temporal CNNs, mean log-probability: what pooling gives without a density",
          generative=False, semi_supervised=True, gradient=True),
    Entry("breizhcrops:tempcnn", "discriminative", "discriminative.breizhcrops:ZooTempCNN", _BREIZHCROPS,
          "as published: TempCNN",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:lstm", "discriminative", "discriminative.breizhcrops:ZooLSTM", _BREIZHCROPS,
          "as published: LSTM",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:starrnn", "discriminative", "discriminative.breizhcrops:ZooStarRNN", _BREIZHCROPS,
          "as published: StarRNN, its upper layers one and the same",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:inceptiontime", "discriminative", "discriminative.breizhcrops:ZooInceptionTime", _BREIZHCROPS,
          "as published: InceptionTime, of which only the last layer learns",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:msresnet", "discriminative", "discriminative.breizhcrops:ZooMSResNet", _BREIZHCROPS,
          "as published: MSResNet",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:omniscalecnn", "discriminative", "discriminative.breizhcrops:ZooOmniScaleCNN", _BREIZHCROPS,
          "as published: OmniScaleCNN",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("breizhcrops:transformer", "discriminative", "discriminative.breizhcrops:ZooTransformer", _BREIZHCROPS,
          "as published: Transformer, told no dates",
          generative=False, semi_supervised=False, gradient=True, needs="breizhcrops"),
    Entry("realnvp", "flow", "flows.realnvp:RealNVP",
          "Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017",
          "residual affine couplings around the tied Gaussian, all classes scored in one pass",
          generative=True, semi_supervised=True, gradient=True),
    Entry("nice", "flow", "flows.nice:NICE",
          "NICE: Non-linear Independent Components Estimation, Dinh, Krueger and Bengio, 2015",
          "additive couplings between random halves of a season",
          generative=True, semi_supervised=True, gradient=True),
    Entry("maf", "flow", "flows.maf:MAF",
          "Masked Autoregressive Flow for Density Estimation, Papamakarios, Pavlakou and Murray, 2017",
          "every innovation shifted and scaled by a network of earlier ones; beginnings of a season scored exactly",
          generative=True, semi_supervised=True, gradient=True),
    Entry("iaf", "flow", "flows.iaf:IAF",
          "Improved Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016",
          "autoregressive from base to data: one pass draws a season, scoring is a fixed point",
          generative=True, semi_supervised=True, gradient=True),
    Entry("naf", "flow", "flows.naf:NAF",
          "Neural Autoregressive Flows, Huang, Krueger, Lacoste and Courville, 2018",
          "increasing sigmoidal networks steered by earlier innovations; --set transformer=dsf|ddsf|mnn",
          generative=True, semi_supervised=True, gradient=True),
    Entry("flowpp", "flow", "flows.flowpp:FlowPP",
          "Flow++, Ho, Chen, Srinivas, Duan and Abbeel, 2019",
          "couplings by distribution functions of mixtures of logistics",
          generative=True, semi_supervised=True, gradient=True),
    Entry("nsf", "flow", "flows.nsf:NSF",
          "Neural Spline Flows, Durkan, Bekasov, Murray and Papamakarios, 2019",
          "monotone splines; --set spline=…, conditioner=coupling|autoregressive|causal-conv|recurrent",
          generative=True, semi_supervised=True, gradient=True),
    Entry("planar", "flow", "flows.planar:PlanarFlow",
          "Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015",
          "moves seasons along one direction a layer",
          generative=True, semi_supervised=True, gradient=True),
    Entry("radial", "flow", "flows.radial:RadialFlow",
          "Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015",
          "draws seasons towards points or pushes them away",
          generative=True, semi_supervised=True, gradient=True),
    Entry("sylvester", "flow", "flows.sylvester:SylvesterFlow",
          "Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak and Welling, "
          "2018",
          "moves seasons along several orthogonal directions a layer",
          generative=True, semi_supervised=True, gradient=True),
    Entry("resflow", "flow", "flows.resflow:ResidualFlow",
          "Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud and Jacobsen, 2019",
          "invertible residual networks: contractions by spectral norm",
          generative=True, semi_supervised=True, gradient=True),
    Entry("glow", "flow", "flows.glow:Glow",
          "Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018",
          "multi-scale over time: squeeze, triangular mixing, couplings, split with conditional priors",
          generative=True, semi_supervised=True, gradient=True),
    Entry("cnf", "flow", "flows.cnf:CNF",
          "FFJORD: Free-Form Continuous Dynamics for Scalable Reversible Generative Models, Grathwohl et al., 2019",
          "seasons follow a differential equation to the base",
          generative=True, semi_supervised=True, gradient=True),
    Entry("flowgmm", "flow", "flows.flowgmm:FlowGMM",
          "Semi-Supervised Learning with Normalizing Flows, Izmailov, Kirichenko, Finzi and Wilson, 2020",
          "mixture of class Gaussians behind a flow; beginnings of seasons agree with the whole",
          generative=True, semi_supervised=True, gradient=True),
    Entry("semiflow", "flow", "flows.semiflow:SemiFlow",
          "Semi-Conditional Normalizing Flows for Semi-Supervised Learning, Atanov, Volokhova, Ashukha, Sosnovik "
          "and Vetrov, 2019",
          "a trunk for all classes, a shallow head for each",
          generative=True, semi_supervised=True, gradient=True),
    Entry("ssvae", "vae", "vaes.ssvae:SemiSupervisedVAE",
          "Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014",
          "M2 variational auto-encoder in the tied-whitened space",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vae", "vae", "vaes.vae:VAE",
          "Auto-Encoding Variational Bayes, Kingma and Welling, 2014",
          "auto-encoder of parts: --set likelihood=…, prior=…, posterior=…, estimator=…, latent_kind=…, collapse=…",
          generative=True, semi_supervised=True, gradient=True),
    Entry("m1", "vae", "vaes.m1:M1",
          "Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014",
          "latent features learnt without classes, then logistic regression on them",
          generative=True, semi_supervised=True, gradient=True),
    Entry("m2", "vae", "vaes.m2:M2",
          "Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014",
          "the class a latent variable, summed out where it is not told; the objective as published",
          generative=True, semi_supervised=True, gradient=True),
    Entry("m1m2", "vae", "vaes.m1m2:M1M2",
          "Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014",
          "two stacked latents: m2 on the latent of m1",
          generative=True, semi_supervised=True, gradient=True),
    Entry("adgm", "vae", "vaes.adgm:ADGM",
          "Auxiliary Deep Generative Models, Maaløe, Sønderby, Sønderby and Winther, 2016",
          "an auxiliary variable makes the posteriors of latent and class mixtures; --set skip=true for SDGM",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vade", "vae", "vaes.vade:VaDE",
          "Variational Deep Embedding, Jiang, Zheng, Tan, Tang and Zhou, 2017",
          "classes are clusters of the latent space; decoder and encoder know no class",
          generative=True, semi_supervised=True, gradient=True),
    Entry("cagem", "vae", "vaes.cagem:CaGeM",
          "CaGeM: A Cluster Aware Deep Generative Model, Maaløe, Fraccaro and Winther, 2017",
          "the class is made by the upper latent and makes the lower one",
          generative=True, semi_supervised=True, gradient=True),
    Entry("ssdgm", "vae", "vaes.ssdgm:SSDGM",
          "Learning Disentangled Representations with Semi-Supervised Deep Generative Models, Siddharth et al., 2017",
          "the latent is inferred first and the class from it; labels condition by importance weights",
          generative=True, semi_supervised=True, gradient=True),
    Entry("lvae", "vae", "vaes.lvae:LVAE",
          "Ladder Variational Autoencoders, Sønderby, Raiko, Maaløe, Sønderby and Winther, 2016",
          "levels of latents of halved time resolution; season and level above weighted by precision",
          generative=True, semi_supervised=True, gradient=True),
    Entry("biva", "vae", "vaes.biva:BIVA",
          "BIVA: A Very Deep Hierarchy of Latent Variables for Generative Modeling, Maaløe et al., 2019",
          "levels inferred on the way up and on the way down, with skip connections",
          generative=True, semi_supervised=True, gradient=True),
    Entry("nvae", "vae", "vaes.nvae:NVAE",
          "NVAE: A Deep Hierarchical Variational Autoencoder, Vahdat and Kautz, 2020",
          "levels of residual cells, posteriors residual to the priors, spectral norms penalised",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vqvae", "vae", "vaes.vqvae:VQVAE",
          "Neural Discrete Representation Learning, van den Oord et al., 2017; Sønderby, Poole and Mnih, 2017",
          "a chain of codes tells the season, summed out exactly; --set quantiser=nearest|gumbel|vimco",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vqvae2", "vae", "vaes.vqvae2:VQVAE2",
          "Generating Diverse High-Fidelity Images with VQ-VAE-2, Razavi, van den Oord and Vinyals, 2019",
          "a code of the season and, given it, a chain of codes of its segments",
          generative=True, semi_supervised=True, gradient=True),
    Entry("hqa", "vae", "vaes.hqa:HQA",
          "Hierarchical Quantized Autoencoders, Williams, Ringer, Ash, MacLeod, Dougherty and Hughes, 2020",
          "a tree of stochastic quantisers, each of which reconstructs the codes below",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vae-rnn", "vae", "vaes.vae_rnn:VAERNN",
          "Generating Sentences from a Continuous Space, Bowman et al., 2016; Miladinović, 2021",
          "one latent of the season, told date by date; --set dropout=… keeps the latent in use",
          generative=True, semi_supervised=True, gradient=True),
    Entry("selfsup-vae", "vae", "vaes.selfsup_vae:SelfSupervisedVAE",
          "Self-Supervised Variational Auto-Encoders, Gatopoulos and Tomczak, 2021",
          "a coarse view of the season first, then the details it leaves open; --set levels=…, view=haar|select",
          generative=True, semi_supervised=True, gradient=True),
    Entry("sdn-vae", "vae", "vaes.sdn_vae:SDNVAE",
          "Spatial Dependency Networks, Miladinović, Stanić, Bauer, Schmidhuber and Buhmann, 2021",
          "ladder of latent sequences whose dates depend on their neighbours, flow posterior, averaged weights",
          generative=True, semi_supervised=True, gradient=True),
    Entry("tampered-vae", "vae", "vaes.tampered_vae:TamperedVAE",
          "Tampered VAE for Improved Satellite Image Time Series Classification, Cai, Bi and Nicholl, 2022",
          "classes are clusters of the latent space, read by a pyramid of temporal attention, told apart by a plane",
          generative=True, semi_supervised=True, gradient=True),
    Entry("srnn", "dvae", "dvaes.srnn:SRNN",
          "Sequential Neural Models with Stochastic Layers, Fraccaro, Sønderby, Paquet and Winther, 2016",
          "stochastic recurrent network on time-ordered innovations",
          generative=True, semi_supervised=True, gradient=True),
    Entry("dkf", "dvae", "dvaes.dkf:DKF",
          "Deep Kalman Filters, Krishnan, Shalit and Sontag, 2015",
          "deep Kalman filter: a Markov chain of latent states makes the season, and nothing else",
          generative=True, semi_supervised=True, gradient=True),
    Entry("dmm", "dvae", "dvaes.dmm:DMM",
          "Structured Inference Networks for Nonlinear State Space Models, Krishnan, Shalit and Sontag, 2017",
          "deep Markov model: gated transition, inference that combines past and season",
          generative=True, semi_supervised=True, gradient=True),
    Entry("kvae", "dvae", "dvaes.kvae:KVAE",
          "A Disentangled Recognition and Nonlinear Dynamics Model for Unsupervised Learning, Fraccaro et al., 2017",
          "Kalman variational auto-encoder: mixed linear dynamics of encoded dates, filtered exactly",
          generative=True, semi_supervised=True, gradient=True),
    Entry("storn", "dvae", "dvaes.storn:STORN",
          "Learning Stochastic Recurrent Networks, Bayer and Osendorfer, 2014",
          "independent latent states stir a recurrent network",
          generative=True, semi_supervised=True, gradient=True),
    Entry("vrnn", "dvae", "dvaes.vrnn:VRNN",
          "A Recurrent Latent Variable Model for Sequential Data, Chung et al., 2015",
          "variational recurrent network: one recurrent state of what was seen and drawn",
          generative=True, semi_supervised=True, gradient=True),
    Entry("rvae", "dvae", "dvaes.rvae:RVAE",
          "A Recurrent Variational Autoencoder for Speech Enhancement, Leglaive et al., 2020",
          "recurrent auto-encoder: independent latent states, a decoder that remembers them",
          generative=True, semi_supervised=True, gradient=True),
    Entry("dsae", "dvae", "dvaes.dsae:DSAE",
          "Disentangled Sequential Autoencoder, Li and Mandt, 2018; Dynamical Variational Autoencoders: A "
          "Comprehensive Review, Girin, Leglaive, Bie, Diard, Hueber and Alameda-Pineda, 2021",
          "one latent state of the season, which carries the class, and one of each date",
          generative=True, semi_supervised=True, gradient=True),
    Entry("rfn", "dvae", "dvaes.rfn:RFN",
          "Recurrent Flow Networks: A Recurrent Latent Variable Model for Density Modelling of Urban Mobility, "
          "Gammelli and Rodrigues, 2020",
          "dynamics of srnn, and a conditional flow for the bands of a date",
          generative=True, semi_supervised=True, gradient=True),
    Entry("pool", "pool", "pool:Pool",
          "Training Products of Experts by Minimizing Contrastive Divergence, Hinton, 2002",
          "log-linear pool of a generative and a discriminative member; what a bare `cropgen train` trains",
          generative=False, semi_supervised=True, gradient=True),
)  # fmt: skip

ALIASES: dict[str, str] = {"dvae": "srnn", "flow": "realnvp", "recommended": "pool"}


def find(name: str) -> Entry:
    """The catalogue row of a model or alias.

    Raises:
        UsageError: there is no such model; the message names the nearest ones.
    """
    resolved = ALIASES.get(name, name)
    for entry in CATALOG:
        if entry.name == resolved:
            return entry
    import difflib

    known = [e.name for e in CATALOG] + list(ALIASES)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(known)}"
    raise UsageError(f"unknown model {name!r}", hint=hint)


def load(entry: Entry) -> type[Classifier]:
    """Import the class of a catalogue row."""
    module, _, name = entry.target.partition(":")
    return getattr(importlib.import_module(f"cropgen.models.{module}"), name)


def aliases_of(name: str) -> tuple[str, ...]:
    """The other names of a model."""
    return tuple(alias for alias, target in ALIASES.items() if target == name)
