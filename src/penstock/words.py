"""Run names that people can say and remember."""

from __future__ import annotations

import random

_ADJECTIVES = (
    "able amber bold brave brisk bright calm clear clever cosy crisp curious daring deft eager early easy fair "
    "fast fine firm fond free fresh gentle glad golden grand green happy hardy honest humble jolly keen kind "
    "light lively lucky mellow merry mighty mild modest neat nimble noble patient plain plucky polite proud pure "
    "quick quiet rapid ready red rich rosy round sandy silent silver simple sleek smart smooth snowy soft solid "
    "spry steady still strong sunny sure swift tall tender tidy tough trim true vivid warm white wise witty young"
).split()
_NOUNS = (
    "alder aspen badger beaver birch bison brook canal cedar cliff cloud comet coral crane creek cricket dune "
    "eagle egret elm falcon fern ferry finch fjord fox gale geyser glade gull harbor hare harvest hawk hazel "
    "heron hill ibis inlet island jay kestrel lagoon lake lark leaf lemur linden lynx maple marsh marten meadow "
    "mill mole moss newt oak ocean orchid osprey otter owl panda pebble pelican pine plover pond poplar puffin "
    "quail raven reed reef ridge river robin sable salmon seal shore spring spruce squid stoat stork stream swan "
    "teal thrush tide toad trout tulip valley vole walrus wave weasel weir whale willow wren yak"
).split()


def two_words() -> str:
    """A random name such as "brave-otter"."""
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_NOUNS)}"
