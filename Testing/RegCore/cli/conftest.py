"""The trained model that the tests of ``regcore slicreg`` share is made once."""

from Testing.RegCore.cli.slicreg_work import work

__all__ = ["work"]
