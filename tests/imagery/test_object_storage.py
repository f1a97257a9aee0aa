"""`s3://` against an object store on this machine: signed, unsigned, refused, changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra stac)")
pytest.importorskip("moto.server", reason="moto is not installed (extra test)")

from cropgen.core.errors import CropgenError, MissingInputError, UnfinishedError  # noqa: E402
from cropgen.core.progress import Silent  # noqa: E402
from cropgen.imagery import remote  # noqa: E402
from cropgen.imagery.catalogs import find_catalog  # noqa: E402
from cropgen.imagery.scene import Window  # noqa: E402
from cropgen.imagery.scene_fetch import SceneQuery, fetch_scenes, plan_scenes  # noqa: E402
from cropgen.imagery.scene_files import Ledger  # noqa: E402
from cropgen.imagery.sources import open_scenes  # noqa: E402
from cropgen.imagery.stac import access_to  # noqa: E402
from tests.data.server import serve  # noqa: E402
from tests.data.stac import SIZE, Region, write_parcels  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keys of the environment, and nothing of the user's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    forget()
    yield
    forget()


def forget() -> None:
    remote._aws_session.cache_clear()
    remote._s3_client.cache_clear()


def upload(store: str, folder: Path, *, public: bool, bucket: str = "eodata") -> None:
    client = boto3.client("s3", endpoint_url=store, region_name="us-east-1")
    rights = {"ACL": "public-read" if public else "private"}
    client.create_bucket(Bucket=bucket)
    for path in folder.rglob("*.tif"):
        client.upload_file(str(path), bucket, path.relative_to(folder).as_posix(), ExtraArgs=rights)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_windows_of_objects(tmp_path, store, monkeypatch, signed):
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        region = Region(server, base="s3://eodata")
        region.add("2021-06-05", dialect="cdse", baseline="05.11")
        region.add("2021-06-15", dialect="cdse", baseline="02.14", stated_grid=False)
        upload(store, server.folder, public=not signed)
        if not signed:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            forget()
        catalog = find_catalog(region.write_static(), endpoint=store)
        access = access_to(catalog, retries=1, backoff=0.01, timeout=10.0)
        query = SceneQuery(catalog, "2021-06-01", "2021-06-30", bands=("B04", "B08"))
        parcels, folder = write_parcels(tmp_path / "p.gpkg", {"a": (100.0, 100.0)}), tmp_path / "data"
        plan = plan_scenes(query, [parcels], folder, access, Silent())
        assert fetch_scenes(plan, query, folder, access, Silent(), 2) == 6
        assert fetch_scenes(plan, query, folder, access, Silent(), 2) == 0
        for acquisition, item in zip(open_scenes(folder / "scenes", Silent()).acquisitions, region.items, strict=True):
            layer = acquisition.layers["B08"]
            values = layer.scale * layer.read(Window(0, 512, 0, 512)) + layer.offset
            np.testing.assert_allclose(values, region.truth[f"{item['id']}/B08"][:512, :512], atol=1e-9)
        remote_layer = open_scenes(folder / "items.json", Silent()).acquisitions[0].layers["B04"]
        assert remote_layer.read(Window(3, 5, 1, 2)).shape == (2, 1)
        client = boto3.client(
            "s3", endpoint_url=store, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        other = server.folder / f"cogs/{region.items[1]['id']}/B04.tif"
        client.upload_file(
            str(other), "eodata", f"cogs/{region.items[0]['id']}/B04.tif", ExtraArgs={"ACL": "public-read"}
        )
        assert fetch_scenes(plan, query, folder, access, Silent(), 2) == 1


def test_what_the_store_says(store):
    access = remote.Access(retries=1, timeout=5.0, backoff=0.01, endpoint=store)
    with pytest.raises(MissingInputError, match=r"s3://nowhere/a\.tif: the server answers 404"):
        remote.version_of("s3://nowhere/a.tif", access)
    with pytest.raises((MissingInputError, UnfinishedError), match=r"s3://nowhere/a\.tif"):
        remote.patiently(lambda: remote.open_raster("s3://nowhere/a.tif", access, lambda r: r.count), access)
    down = remote.Access(retries=1, timeout=1.0, backoff=0.01, endpoint="http://127.0.0.1:1")
    with pytest.raises(UnfinishedError, match=r"127\.0\.0\.1:1"):
        remote.patiently(lambda: remote.version_of("s3://eodata/a.tif", down), down)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, CropgenError), (403, CropgenError), (404, MissingInputError), (429, remote.Again), (503, remote.Again)],
)
def test_answers_are_judged(status, kind):
    with pytest.raises(kind, match=str(status)):
        remote.require_success(status, "x", "s3://eodata/a.tif")


def test_whole_objects_have_the_checksum_of_the_catalogue(tmp_path, store):
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        region = Region(server, base="s3://whole")
        region.add("2021-06-05", dialect="cdse", baseline="05.11", checksums=True)
        upload(store, server.folder, public=True, bucket="whole")
        catalog = find_catalog(region.write_static(), endpoint=store)
        access = access_to(catalog, retries=0, timeout=10.0)
        query = SceneQuery(catalog, "2021-06-01", "2021-06-30", bands=("B04",))
        corners = {"a": (0.0, 0.0), "b": (SIZE * 10.0 - 60, SIZE * 10.0 - 60)}
        parcels, folder = write_parcels(tmp_path / "p.gpkg", corners), tmp_path / "data"
        plan = plan_scenes(query, [parcels], folder, access, Silent())
        assert fetch_scenes(plan, query, folder, access, Silent(), 2) == 2
        assert all(record.verified for record in Ledger.read(folder / "scenes").all())
