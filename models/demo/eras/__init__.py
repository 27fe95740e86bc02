"""The eras this version of the demo set can paint, in the artwork's order of time."""

from models.demo.eras.era import Era
from models.demo.eras.future import FUTURE
from models.demo.eras.modern import MODERN
from models.demo.eras.pre_industrial import PRE_INDUSTRIAL
from models.demo.eras.wilderness import WILDERNESS

ERAS: dict[str, Era] = {era.key: era for era in (WILDERNESS, PRE_INDUSTRIAL, MODERN, FUTURE)}

__all__ = ["ERAS", "Era"]
