"""Units adapted from rows of a table, one or a whole fleet, in memory and on disk (floor 4).

On disk stand θ, the support rows as they came and how to read them; adapting again takes milliseconds, so an update is the
same as adapting on old and new rows together. No pickle, no code.
"""

from fewstep.adapted.units import Adapted as Adapted
from fewstep.adapted.units import adapt as adapt
from fewstep.application import open_adapted as open_adapted
