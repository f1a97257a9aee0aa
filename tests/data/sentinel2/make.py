"""Small Sentinel-2 products in the published layout: SAFE folders with real element names and lossless JPEG 2000.

    make_safe(folder, "2021-06-05", {"B04": red, "SCL": classes}, baseline="03.00") → the .SAFE folder

Bands are given as reflectance, and stored as the baseline of the product stores them. 10 m arrays decide the extent.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio

from cropgen.series.bands import SENTINEL2

UTM = "EPSG:32631"
WEST, NORTH = 600_000.0, 5_700_000.0
BANDS = tuple(SENTINEL2)


def make_safe(
    folder: Path,
    date: str,
    bands: Mapping[str, np.ndarray],
    *,
    level: str = "L2A",
    baseline: str = "05.09",
    tile: str = "31UFS",
    sensed: str = "105031",
    quantification: int = 10_000,
    lists_offsets: bool = True,
    clouds: np.ndarray | None = None,
    polygons: Mapping[str, str] | None = None,
    probability: np.ndarray | None = None,
    folder_baseline: str | None = None,
) -> Path:
    """Write one product.

    Arguments:
        bands: name → reflectance, or classes for `SCL`; `B04_20m` writes a coarser copy beside the finer.
        quantification: of the metadata and of the stored numbers.
        lists_offsets: whether a baseline from 04.00 on lists them, as it does.
        clouds: (3, rows, columns) of MSK_CLASSI at 60 m.
        polygons: kind of cloud → `x y x y …` of MSK_CLOUDS.
        probability: MSK_CLDPRB at 20 m.
        folder_baseline: what the folder's name says, if something else.
    """
    day = date.replace("-", "")
    shifted = tuple(map(int, baseline.split("."))) >= (4, 0)
    number = (folder_baseline or baseline).replace(".", "")
    product = f"S2A_MSI{level}_{day}T{sensed}_N{number}_R051_T{tile}_{day}T141312.SAFE"
    granule = f"{level}_T{tile}_A031093_{day}T105050"
    home = folder / product / "GRANULE" / granule
    for name, values in bands.items():
        band, _, _ = name.partition("_")
        metres = int(name.partition("_")[2].removesuffix("m") or (20 if band == "SCL" else SENTINEL2[band].resolution))
        stored = values if band == "SCL" else stored_numbers(values, quantification, shifted=shifted)
        stem = f"T{tile}_{day}T{sensed}_{band}"
        inner = f"R{metres}m/{stem}_{metres}m.jp2" if level == "L2A" else f"{stem}.jp2"
        write_jp2(home / "IMG_DATA" / inner, stored.astype("uint8" if band == "SCL" else "uint16"), metres)
    quality = home / "QI_DATA"
    quality.mkdir(parents=True, exist_ok=True)
    if clouds is not None:
        write_jp2(quality / "MSK_CLASSI_B00.jp2", clouds.astype("uint8"), 60)
    if probability is not None:
        write_jp2(quality / "MSK_CLDPRB_20m.jp2", probability.astype("uint8"), 20)
    if polygons is not None:
        (quality / "MSK_CLOUDS_B00.gml").write_text(cloud_polygons(polygons), encoding="utf-8")
    metadata = product_metadata(
        level, date, baseline, product, granule, sensed, quantification, offsets=shifted and lists_offsets
    )
    (folder / product / f"MTD_MSI{level}.xml").write_text(metadata, encoding="utf-8")
    (folder / product / "manifest.safe").write_text("<xfdu:XFDU/>\n", encoding="utf-8")
    (home / "MTD_TL.xml").write_text("<tile/>\n", encoding="utf-8")
    return folder / product


def make_zip(product: Path, target: Path) -> Path:
    """The product as one downloads it: the .SAFE folder inside a zip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.make_archive(str(target.with_suffix("")), "zip", product.parent, product.name))


def stored_numbers(reflectance: np.ndarray, quantification: int, *, shifted: bool) -> np.ndarray:
    """Numbers of the product; NaN is no data, infinity is saturated."""
    with np.errstate(invalid="ignore"):
        numbers = np.round(reflectance * quantification + (1000 if shifted else 0))
    return np.where(np.isnan(reflectance), 0, np.where(np.isinf(reflectance), 65535, numbers))


def write_jp2(path: Path, values: np.ndarray, metres: float) -> Path:
    """Lossless JPEG 2000 with GMLJP2 coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = values.reshape(-1, *values.shape[-2:])
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", width=planes.shape[2], height=planes.shape[1], count=len(planes),
        dtype=values.dtype, crs=UTM, transform=rasterio.Affine(metres, 0, WEST, 0, -metres, NORTH),
        QUALITY=100, REVERSIBLE="YES", RESOLUTIONS=1, YCBCR420="NO",
    ) as raster:  # fmt: skip
        raster.write(planes)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path


def product_metadata(
    level: str, date: str, baseline: str, product: str, granule: str, sensed: str, quantification: int, *, offsets: bool
) -> str:
    """The user product metadata, in the order of the published schema."""
    day, time = date.replace("-", ""), f"{sensed[:2]}:{sensed[2:4]}:{sensed[4:]}.024Z"
    kind, add = ("BOA", "BOA_ADD_OFFSET") if level == "L2A" else ("RADIO", "RADIO_ADD_OFFSET")
    listed = "".join(f'<{add} band_id="{i}">-1000</{add}>' for i in range(13)) if offsets else ""
    around = f"{kind}_ADD_OFFSET_VALUES_LIST" if level == "L2A" else "Radiometric_Offset_List"
    offset_list = f"<{around}>{listed}</{around}>" if offsets else ""
    value = f'<{{}}QUANTIFICATION_VALUE unit="none">{quantification}</{{}}QUANTIFICATION_VALUE>'
    numbers = (
        f"<QUANTIFICATION_VALUES_LIST>{value.format('BOA_', 'BOA_')}"
        '<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>'
        if level == "L2A"
        else value.format("", "")
    )
    spectral = "".join(
        f'<Spectral_Information bandId="{i}" physicalBand="{band.replace("B0", "B")}"/>' for i, band in enumerate(BANDS)
    )
    strip = f"S2A_OPER_MSI_{level}_DS_VGS4_{day}T141312_S{day}T105050_N{baseline}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level[1:]}.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>{date}T{time}</PRODUCT_START_TIME><PRODUCT_STOP_TIME>{date}T{time}</PRODUCT_STOP_TIME>
<PRODUCT_URI>{product}</PRODUCT_URI><PROCESSING_LEVEL>Level-{level[1:]}</PROCESSING_LEVEL>
<PRODUCT_TYPE>S2MSI{level[1:]}</PRODUCT_TYPE><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<GENERATION_TIME>{date}T14:13:12.000000Z</GENERATION_TIME>
<Datatake datatakeIdentifier="GS2A_{day}T{sensed}_031093_N{baseline}"><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>{date}T{time}</DATATAKE_SENSING_START></Datatake>
<Product_Organisation><Granule_List>
<Granule datastripIdentifier="{strip}" granuleIdentifier="{granule}" imageFormat="JPEG2000"/>
</Granule_List></Product_Organisation></Product_Info>
<Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
{numbers}{offset_list}<Spectral_Information_List>{spectral}</Spectral_Information_List>
</Product_Image_Characteristics></n1:General_Info>
<n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment></n1:Quality_Indicators_Info>
</n1:Level-{level[1:]}_User_Product>
"""


def cloud_polygons(polygons: Mapping[str, str]) -> str:
    """The mask of clouds of Level-1C before baseline 04.00."""
    members = "".join(
        f'<eop:MaskFeature gml:id="{kind}.{i}"><eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}</eop:maskType>'
        f'<eop:extentOf><gml:Polygon gml:id="{kind}.{i}_Polygon"><gml:exterior><gml:LinearRing>'
        f'<gml:posList srsDimension="2">{ring}</gml:posList>'
        "</gml:LinearRing></gml:exterior></gml:Polygon></eop:extentOf></eop:MaskFeature>"
        for i, (kind, ring) in enumerate(polygons.items())
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
        'xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="S2A_OPER_MSK_CLOUDS_B00">'
        f"<gml:name>MSK_CLOUDS</gml:name><eop:maskMembers>{members}</eop:maskMembers></eop:Mask>"
    )
