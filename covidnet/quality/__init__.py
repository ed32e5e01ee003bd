"""The input gate: whether a picture is a film such as the model was trained on."""

from covidnet.quality.flags import Flag
from covidnet.quality.gate import InputGate, fixed_rules

__all__ = ["Flag", "InputGate", "fixed_rules"]
