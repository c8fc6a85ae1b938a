"""The Diffie–Hellman family of private set intersection on ristretto255, two-party and multi-party.

==============  ===========  ========================================================  ===================
scheme          parties      source                                                    module
==============  ===========  ========================================================  ===================
``intersect``   two          Meadows 1986; Huberman, Franklin, Hogg 1999               ``intersection``
``intersect``   three, more  the same around a ring that shuffles                      ``intersection``
``count``       two or more  Agrawal, Evfimievski, Srikant 2003; Vaidya, Clifton 2005  ``cardinality``
``total``       two          Ion and others, eprint 2019/723                           ``sums``
``unite``       two          Buddhavarapu and others, eprint 2020/599                  ``union``
==============  ===========  ========================================================  ===================

All begin alike (``session``): the parties agree on who meets and draw a joint salt; each hashes its items to group
elements and multiplies them by secret scalars. Multiplications commute, so that equal items become equal elements once
the same parties have multiplied them, and nobody else can compare them.
"""

from unseen.protocols.psi.ecdh.cardinality import count
from unseen.protocols.psi.ecdh.intersection import intersect
from unseen.protocols.psi.ecdh.sums import total
from unseen.protocols.psi.ecdh.union import unite

__all__ = ["count", "intersect", "total", "unite"]
