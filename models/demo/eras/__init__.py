"""The ten eras the demo set can paint, in the artwork's order of time."""

from models.demo.eras.current import CURRENT
from models.demo.eras.dystopia import DYSTOPIA
from models.demo.eras.early_industrial import EARLY_INDUSTRIAL
from models.demo.eras.era import Era
from models.demo.eras.future import FUTURE
from models.demo.eras.industrial import INDUSTRIAL
from models.demo.eras.late_industrial import LATE_INDUSTRIAL
from models.demo.eras.modern import MODERN
from models.demo.eras.pre_industrial import PRE_INDUSTRIAL
from models.demo.eras.ruins import RUINS
from models.demo.eras.wilderness import WILDERNESS

ERAS: dict[str, Era] = {
    era.key: era
    for era in (
        WILDERNESS,
        PRE_INDUSTRIAL,
        EARLY_INDUSTRIAL,
        LATE_INDUSTRIAL,
        INDUSTRIAL,
        MODERN,
        CURRENT,
        FUTURE,
        DYSTOPIA,
        RUINS,
    )
}

__all__ = ["ERAS", "Era"]
