"""my_paper: a skeleton that measures how often a coin shows heads; the paper's method takes its place.

Fidelity: reconstruction. Say here what was read, and what could not be. What the paper writes, and where it lives here:

    x_i    flips, 1 is heads, [N]     `flips`
    p      share of heads             `share_of_heads`
"""

from iclr_repro.my_paper.method import share_of_heads

__all__ = ["share_of_heads"]
