"""What a file that kerasneuro converted says of the network that it holds."""

from __future__ import annotations

import json
from typing import Any

from kerasneuro.errors import WeightsCorrupt, WeightsMismatch
from kerasneuro.weights.flat_h5 import FORMAT
from kerasneuro.weights.store import WeightStore


def is_converted(store: WeightStore) -> bool:
    """Say whether a file was written for a network of kerasneuro, under the names of its variables."""
    return store.format == FORMAT and "model" in store.attributes


def stated_config(store: WeightStore, model: str, part: str, converter: str) -> dict[str, Any]:
    """Read the configuration that a converted file states, after checking that it is of this network.

    Parameters
    ----------
    store : WeightStore
        The open file.
    model, part : str
        Registry name, and the part of the model (empty where it has one network).
    converter : str
        Version of the tables that this version of kerasneuro has.

    Returns
    -------
    dict
        Arguments of the graph's `build`.

    Raises
    ------
    WeightsMismatch
        If it was converted for another network, or by other tables.
    WeightsCorrupt
        If it states no configuration.
    """
    found = store.attributes
    for what, wanted in (("model", model), ("part", part)):
        if found.get(what, "") != wanted:
            raise WeightsMismatch(
                f"{store.path} was converted for the {what} {found.get(what, '')!r} of kerasneuro, expected "
                f"{wanted!r}; give the file of this {what}"
            )
    if found.get("converter") != converter:
        raise WeightsMismatch(
            f"{store.path} was written by converter {found.get('converter', '')!r}, this version reads "
            f"{converter!r}; convert the original file again"
        )
    try:
        config = json.loads(found.get("config", ""))
    except (ValueError, RecursionError) as error:
        raise WeightsCorrupt(f"{store.path} does not state its configuration; convert it again") from error
    if not isinstance(config, dict):
        raise WeightsCorrupt(f"{store.path} states no mapping as its configuration; convert it again")
    return config
