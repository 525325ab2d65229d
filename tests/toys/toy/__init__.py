"""A paper made for the tests: small, with an experiment for every way in which one can end."""
