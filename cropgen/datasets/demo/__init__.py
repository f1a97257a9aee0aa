"""The embedded demo region: a simulated landscape, its weather, crops, satellite scenes and parcel layers.

`docs/demo-region.md` gives the equations, their sources and how hard the region is for simple classifiers.
"""
