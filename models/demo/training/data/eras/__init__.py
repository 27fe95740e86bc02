"""The ten eras of the demo set, in the artwork's chronological order."""

from models.demo.training.data.eras.current import CURRENT
from models.demo.training.data.eras.dystopia import DYSTOPIA
from models.demo.training.data.eras.early_industrial import EARLY_INDUSTRIAL
from models.demo.training.data.eras.era import Era
from models.demo.training.data.eras.future import FUTURE
from models.demo.training.data.eras.industrial import INDUSTRIAL
from models.demo.training.data.eras.late_industrial import LATE_INDUSTRIAL
from models.demo.training.data.eras.modern import MODERN
from models.demo.training.data.eras.pre_industrial import PRE_INDUSTRIAL
from models.demo.training.data.eras.ruins import RUINS
from models.demo.training.data.eras.wilderness import WILDERNESS

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
