"""`verydeep configurations`: Tables 1 and 2."""

from typing import Any

from verydeep import recipe as recipes
from verydeep.commands.arguments import Json
from verydeep.configurations import CONFIGURATIONS, Architecture, output_sides
from verydeep.terminal import write_json, write_table


def configurations(net: str | None = None, /, *, json_: Json = False) -> None:
    """Show Tables 1 and 2: the nets, their parameters, multiply-adds and receptive fields.

    For example:

    - `verydeep configurations` shows all nets, for 1000 classes and a crop of 224.
    - `verydeep configurations D` shows D layer by layer.

    Args:
        net: a net to show layer by layer.
    """
    rows = _layer_rows(net) if net is not None else _net_rows()
    if json_:
        write_json(rows)
    else:
        write_table("1000 classes, crop 224", [_headed(row) for row in rows])


def _net_rows() -> list[dict[str, Any]]:
    return [
        {
            "net": name,
            "weight_layers": each.weight_layers,
            "layers": each.column,
            "parameters": each.parameters(),
            "multiply_adds": each.multiply_adds(),
            "receptive_field_of_pool5": each.receptive_fields()["pool5"].size,
        }
        for name, each in CONFIGURATIONS.items()
    ]


def _layer_rows(name: str) -> list[dict[str, Any]]:
    net = Architecture(name)
    layers, fields = net.layers, net.receptive_fields()
    return [
        {
            "layer": layer.name,
            "kernel": layer.kernel,
            "channels": layer.out_channels,
            "side": side,
            "receptive_field": fields[layer.name].size,
            "stride": fields[layer.name].stride,
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds(side),
        }
        for layer, side in zip(layers, output_sides(layers, recipes.PAPER_CROP), strict=True)
        if layer.kind in ("conv", "lrn", "pool")
    ]


def _headed(row: dict[str, Any]) -> dict[str, Any]:
    """Turn the names of a JSON row into column headings."""
    return {name.replace("multiply_adds", "multiply-adds").replace("_", " "): cell for name, cell in row.items()}
