"""The style a prediction opens with in QGIS: one colour per crop, as a QML document."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from cropgen.series.legend import Legend

NO_PREDICTION = "#d9d9d9"
_OUTLINE = "60,60,60,255"


def categorised_qml(legend: Legend, attribute: str, geometry_type: str) -> str:
    """A categorised renderer over the crop code.

    Arguments:
        legend: codes, names and colours; one category each, and a grey one for parcels without a prediction.
        attribute: column of the crop code.
        geometry_type: as OGR names it; points are drawn as markers, lines as lines, all else filled.
    """
    root = Xml.Element("qgis", version="3.34.0", styleCategories="Symbology")
    renderer = Xml.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr=attribute, forceraster="0", symbollevels="0",
        enableorderby="0", referencescale="-1",
    )  # fmt: skip
    categories = Xml.SubElement(renderer, "categories")
    symbols = Xml.SubElement(renderer, "symbols")
    entries = [(c.code, c.name, c.colour) for c in legend.classes] + [("", "no prediction", NO_PREDICTION)]
    for position, (code, name, colour) in enumerate(entries):
        Xml.SubElement(
            categories, "category", type="string", value=code, label=name, symbol=str(position), render="true"
        )
        _add_symbol(symbols, str(position), colour, geometry_type)
    Xml.SubElement(root, "layerOpacity").text = "1"
    Xml.indent(root, " ")
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + Xml.tostring(root, encoding="unicode")


def _add_symbol(symbols: Xml.Element, name: str, colour: str, geometry_type: str) -> None:
    kind, layer, options = _form(geometry_type, _rgba(colour))
    symbol = Xml.SubElement(symbols, "symbol", type=kind, name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    drawn = Xml.SubElement(symbol, "layer", {"class": layer, "enabled": "1", "locked": "0", "pass": "0"})
    table = Xml.SubElement(drawn, "Option", type="Map")
    for key, value in options.items():
        Xml.SubElement(table, "Option", type="QString", name=key, value=value)


def _form(geometry_type: str, colour: str) -> tuple[str, str, dict[str, str]]:
    if "Point" in geometry_type:
        return "marker", "SimpleMarker", {
            "name": "circle", "color": colour, "outline_color": _OUTLINE, "outline_width": "0.1", "size": "2",
            "size_unit": "MM",
        }  # fmt: skip
    if "Line" in geometry_type:
        return "line", "SimpleLine", {"line_color": colour, "line_width": "0.5", "line_width_unit": "MM"}
    return "fill", "SimpleFill", {
        "color": colour, "style": "solid", "outline_color": _OUTLINE, "outline_style": "solid",
        "outline_width": "0.1", "outline_width_unit": "MM",
    }  # fmt: skip


def _rgba(colour: str) -> str:
    return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)) + ",255"
