"""covidnet: chest X-ray classification experiments whose numbers can be defended."""

__version__ = "0.1.0"
