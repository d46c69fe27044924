"""A plugin of pytest: puts the defect that the environment names into the machinery, before the pack sees it."""

import os

from . import DEFECTS, Machinery

(found,) = (defect for defect in DEFECTS if defect.name == os.environ["DEFECT"])
found.apply(Machinery())
