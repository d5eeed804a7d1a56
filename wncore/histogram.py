import sys

from wncore import histograms

sys.modules[__name__] = histograms
