"""cropgen: crop types of parcels from Sentinel-2 time series, with deep generative classifiers."""

__version__ = "0.1.0"
