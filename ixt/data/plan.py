"""The data plan: every random choice about data as a pure function of (seed, epoch, position).

`position` is a sample's place in the epoch's global order, whatever process or batch it falls in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixt.data.crop import Crops, train_crops
from ixt.data.erasing import EraseBoxes, draw_boxes
from ixt.data.hashing import Draw, hash64
from ixt.data.index import Index
from ixt.data.mixing import MixTable, draw_mix
from ixt.data.policy import OpTable, Policy, draw_policy, parse_policy
from ixt.recipe import Augment
