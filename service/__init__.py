"""The maskstream service: API, queue, worker, command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("maskstream")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0"
