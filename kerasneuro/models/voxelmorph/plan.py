"""What U-Net a chain of convolutions is: levels, convolutions of each, and how far its decoder goes up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KERNEL = 3
MOST_CONVOLUTIONS = 100


def channels(shapes: Mapping[str, tuple[int, ...]], rank: int) -> tuple[int, int]:
    """Return the input and output channels of a convolution; (0, 0) if it fits no convolution."""
    if "kernel" in shapes:
        return shapes["kernel"][-2], shapes["kernel"][-1]
    outputs, size = math.prod(shapes["hyperbias_bias"]), math.prod(shapes["hyperkernel_bias"])
    inputs, rest = divmod(size, max(outputs, 1) * KERNEL**rank)
    return (0, 0) if rest else (inputs, outputs)


def plans(chain: Sequence[tuple[int, int]], stated: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Yield what U-Net a chain of convolutions may be: levels, convolutions of each, unused upsamplings.

    Plans that the file states come first, then those with more levels.
    """
    if len(chain) > MOST_CONVOLUTIONS:
        return iter(())
    encoder, decoder = stated_widths(stated)
    per_level = stated.get("nb_unet_conv_per_level")
    found = [
        (levels, count, levels - used)
        for count in range(1, len(chain))
        for levels in range((len(chain) - 1) // (2 * count), 0, -1)
        for used in range(levels, -1, -1)
        if fits(chain, levels, count, used)
    ]
    expected = (len(encoder), per_level if isinstance(per_level, int) else 1)
    known = bool(encoder) and len(encoder) + len(decoder) == len(chain) - 1
    return iter(sorted(found, key=lambda plan: known and (plan[0] * plan[1], plan[1]) != expected))


def stated_widths(stated: Mapping[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return encoder and decoder widths as a file states them, in new or old words; empty if it does not."""
    features = stated.get("nb_unet_features") or (stated.get("enc_nf"), stated.get("dec_nf"))
    if not isinstance(features, list | tuple) or len(features) != 2:
        return (), ()
    encoder, decoder = (part if isinstance(part, list | tuple) else () for part in features)
    return encoder, decoder


def fits(chain: Sequence[tuple[int, int]], levels: int, per_level: int, used: int) -> bool:
    """Tell whether a chain of convolutions is a U-Net whose decoder goes up `used` of its levels."""
    skips: list[int] = []
    current, place = chain[0][0], 0

    def follow(count: int) -> bool:
        nonlocal current, place
        for inputs, outputs in chain[place : place + count]:
            if inputs != current or outputs < 1:
                return False
            current = outputs
        place += count
        return True

    for _ in range(levels):
        if not follow(per_level):
            return False
        skips.append(current)
    for step in range(levels):
        if not follow(per_level):
            return False
        current += skips.pop() if step < used else 0
    return follow(len(chain) - place)
