"""Fixtures of all tests."""

import signal

from tests.seaweedfs import s3_uri as s3_uri
from tests.seaweedfs import seaweedfs as seaweedfs

# Tests that were started in the background (`make test &`) ignore Ctrl-C, and so would every program that they start and then
# interrupt. A handler of our own is not inherited: those programs begin with the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
