"""The stage examples-<name>."""
