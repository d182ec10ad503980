"""A run store as one page: what was run, what was found, which proteins shift, how it was done.

`write` makes it. One file that opens from the disk, in the light and in the dark, on a phone and on
paper; it asks for nothing over the network.
"""

from bgscale.report.page import write

__all__ = ["write"]
