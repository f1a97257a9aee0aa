"""The embedded demo region: a simulated landscape, its weather, crops, satellite scenes and parcel layers.

`docs/demo-region.md` gives the equations, their sources and how hard the region is for simple classifiers.
"""

from cropgen.datasets.demo.region import DEFAULT_SEED, DEFAULT_YEARS, FULL_REGION, DemoRegion, make_demo

__all__ = ["DEFAULT_SEED", "DEFAULT_YEARS", "FULL_REGION", "DemoRegion", "make_demo"]
