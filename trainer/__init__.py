"""Large-batch training of image classifiers, scheduled by the noise scale of SGD."""

__version__ = "0.7.0"
