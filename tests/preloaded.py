"""What the commands of the tests find loaded: the process that they are forked from imports this module.

No command is imported: a module that is there already would be run a second time.
"""

from __future__ import annotations

import gc

import albumentations  # noqa: F401
import cleanlab  # noqa: F401
import fastapi  # noqa: F401
import pydicom  # noqa: F401
import pytorch_grad_cam  # noqa: F401

import covidnet.auditing.checks
import covidnet.explaining.image_maps
import covidnet.fold.run
import covidnet.report.write
import covidnet.serving.batch
import covidnet.sweep.reports  # noqa: F401
from covidnet.launch.command import compose, config_dir
from covidnet.launch.known_settings import composed

# The default settings are composed once, and their files are read.
compose()
for name in ("config", "crossval", "predict", "evaluate", "features"):
    composed(config_dir(), name, ())
# What is here stays: no child looks through it for garbage.
gc.collect()
gc.freeze()
