import sys

from wncore import scoring

sys.modules[__name__] = scoring
