"""When this is imported, the defect that the environment names is put into the machinery."""

import os

from . import DEFECTS, Machinery

(found,) = (defect for defect in DEFECTS if defect.name == os.environ["DEFECT"])
found.apply(Machinery())
