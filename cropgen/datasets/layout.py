"""Names inside the folder of a data set in a workspace.

data/<name>/files/             the files, as published; archives with `unpack` unpacked
data/<name>/fetch.lock.toml    what each was when it was first here
data/<store>/preparing/        an unfinished preparation and its ledger
data/<store>/series.zarr       the container that the reader makes, or parcel layers
data/<store>/prepared.json     from which selection and files
"""

from __future__ import annotations

FILES = "files"
LOCK = "fetch.lock.toml"
PREPARING = "preparing"
PREPARED = "prepared.json"
SERIES = "series.zarr"
