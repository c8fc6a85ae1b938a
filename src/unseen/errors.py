"""Every error that Unseen raises; the type says whose fault it is.

::

    UnseenError
    ├── UsageError               the caller asked for something that cannot be done
    ├── DataError                a table is not what it has to be (says where)
    ├── LocalProtocolError       our own protocol code broke a rule: a bug of ours
    │   └── Deadlock             every party waits for another one
    ├── RemoteProtocolError      a peer sent what it must not send
    ├── TransportError           the link to a peer failed
    │   ├── PeerUnreachable      no connection, or lost for longer than allowed
    │   ├── HandshakeRefused     certificates or TLS versions do not fit
    │   └── DeadlineExceeded     the peer is connected, and silent for too long
    ├── PeerFailed               a peer gave up and said why
    ├── PermissionDenied         a policy says no
    └── Cancelled                somebody on this side stopped the work

A message names the party, file, line or column at fault, what was expected, what was found, and what to do.
"""


class UnseenError(Exception):
    """Base of all errors raised on purpose by Unseen."""


class UsageError(UnseenError):
    """The request cannot be carried out as stated; nothing has been run."""


class DataError(UnseenError):
    """A table, file or column is not what it has to be."""


class LocalProtocolError(UnseenError):
    """Our own side broke a rule of the protocol; please report it."""


class Deadlock(LocalProtocolError):
    """No party can go on, since each waits for a message that nobody will send."""


class RemoteProtocolError(UnseenError):
    """A peer sent something that the protocol does not allow."""


class TransportError(UnseenError):
    """The link between two parties failed."""


class PeerUnreachable(TransportError):
    """A peer could not be reached, or stayed away longer than allowed."""


class HandshakeRefused(TransportError):
    """Two parties could not authenticate each other."""


class DeadlineExceeded(TransportError):
    """A peer stayed silent for longer than a step may wait."""


class PeerFailed(UnseenError):
    """A peer stopped the work and told us why."""


class PermissionDenied(UnseenError):
    """A policy forbids the request."""


class Cancelled(UnseenError):
    """The work was stopped on request; it can be resumed."""


ERRORS: dict[str, type[UnseenError]] = {
    kind.__name__: kind
    for kind in (
        UnseenError,
        UsageError,
        DataError,
        LocalProtocolError,
        Deadlock,
        RemoteProtocolError,
        TransportError,
        PeerUnreachable,
        HandshakeRefused,
        DeadlineExceeded,
        PeerFailed,
        PermissionDenied,
        Cancelled,
    )
}
"""All of them by name: what another process of ours says that it stopped for is one of these, or none of ours."""
