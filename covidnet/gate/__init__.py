"""The input gate: whether a picture is an image such as the model was trained on."""

from covidnet.gate.flags import Flag
from covidnet.gate.gate import InputGate, fixed_rules

__all__ = ["Flag", "InputGate", "fixed_rules"]
