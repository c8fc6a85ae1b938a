"""A node's one port: letters between nodes, and the streams of their jobs, over mutual TLS 1.3.

Three methods are for partners only (their certificate, the root that was pinned, and what they have revoked are looked
at in every call): ``Facts`` for a partner's ``doctor``, ``Exchange`` for letters (``mail``), and ``Stream`` with
the job's name as metadata. A stream is joined with the connection of the job's worker (``workers``), and whether the
partner takes part in the job is asked when it begins and every few seconds. Who dials is a matter of firewalls only;
if both sides can, the lower name dials for a job. A fourth, ``Pair``, is for guests (``guests``), who can do nothing
else.

Requires that gRPC has not been imported before this module, see ``endpoints``.
"""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import (
    EXCHANGE,
    FACTS,
    METHOD,
    PAIR,
    SERVICE,
    Quiet,
    caller,
    certificate_of,
    dialled,
    refuse_old_tls,
)

import grpc  # isort: skip

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from unseen.codec import shown
from unseen.errors import RemoteProtocolError, UnseenError, UsageError
from unseen.ids import JobId, PartyId
from unseen.transport.correspondence import Correspondence
from unseen.transport.diagnosis import examine
from unseen.transport.facts import facts
from unseen.transport.guard import Guard
from unseen.transport.guests import Guests
from unseen.transport.lines import LINGER
from unseen.transport.link import Why, refusal
from unseen.transport.listener import Credentials, Listener
from unseen.transport.mail import Clerk, Mailroom
from unseen.transport.relay import Frame
from unseen.transport.tls import Identity
from unseen.transport.traffic import Traffic
from unseen.transport.visits import Attempt, Complaints, Visits
from unseen.transport.workers import Worker, Workers

_log = logging.getLogger(__name__)

_JOB = "unseen-job"
_REMEMBERED = 60.0


@dataclass(frozen=True, slots=True)
class PortOptions:
    """How patient a port is, in seconds, and how much it lets one partner have."""

    keepalive: float = 10.0
    """How often an idle connection is probed."""
    recheck: float = 2.0
    """How often partners, their certificates and the jobs of their streams are judged anew."""
    mail_wait: float = 25.0
    """For how long a call may wait for letters."""
    worker_wait: float = 20.0
    """For how long a stream waits for the worker of its job."""
    close_grace: float = 5.0
    """For how long ``close`` waits for what it has ended."""
    streams: int = 64
    """How many streams one partner may have at once."""
    exchanges: int = 8
    """How many exchanges of letters one partner may have at once."""


class Port:
    """A node's one port.

    Args:
        identity: The node's certificate, key and root, with its partner list as trust.
        listen: ``host:port`` to be dialled at, port 0 for any; ``None`` for a node that only dials.
        partners: Returns every partner that is trusted now, with the endpoint to dial it at, or ``None``.
        mail: Keeps the letters.
        relay: Folder for the socket of this node's workers.
        admits: Whether a partner takes part in a job now.
        guests: Receives those who were invited to become a partner; without, nobody is.
        options: Patience and limits.

    Raises:
        UsageError: The port is not free, or the folder cannot be used.
    """

    def __init__(  # noqa: PLR0913  # each is a port to another part of the node
        self,
        identity: Identity,
        *,
        listen: str | None,
        partners: Callable[[], Mapping[PartyId, str | None]],
        mail: Mailroom,
        relay: Path,
        admits: Callable[[PartyId, JobId], bool],
        guests: Guests | None = None,
        options: PortOptions | None = None,
    ) -> None:
        refuse_old_tls()
        self.party = identity.party
        self._partners = partners
        self._admits = admits
        self._guests = guests
        self._following = threading.Lock()
        self._options = options or PortOptions()
        self._guard = Guard(identity)
        self._complaints = Complaints()
        self.traffic = Traffic()
        """What was exchanged with each partner since this port was opened."""
        self._clerk = Clerk(mail, self._complaints.say, self.traffic)
        self._stopping = threading.Event()
        self._visits = Visits()
        self._correspondences: dict[PartyId, Correspondence] = {}
        self._dialled_by: dict[PartyId, float] = {}
        # First the port: it tells two nodes of one folder apart, before one takes the other's socket away.
        self._listener = self._listen(listen) if listen is not None else None
        self.port = self._listener.port if self._listener is not None else 0
        """The port that partners can dial, 0 if there is none."""
        try:
            self._workers = Workers(relay, objection=self._objection_to, came=self._worker_came, traffic=self.traffic)
        except UsageError:
            if self._listener is not None:
                self._listener.close(0, 0)
            raise
        if self._listener is not None:
            self._listener.start()
        self._watching = threading.Thread(target=self._watch, name="watch partners", daemon=True)
        self._watching.start()

    @property
    def socket(self) -> Path:
        """Where workers connect."""
        return self._workers.path

    def admit_worker(self, job: JobId, fence: int) -> str:
        """Return the secret token of the worker with this fence; connections of older ones end.

        Raises:
            LocalProtocolError: There was one with the same fence or a newer one.
        """
        return self._workers.admit(job, fence)

    def forget_worker(self, job: JobId) -> None:
        """End every stream of a job and let no worker of it in any more."""
        self._workers.forget(job)

    def show(self, identity: Identity) -> None:
        """Go on with a renewed certificate of this node, from the next connection on."""
        self._guard.identity = identity

    def look(self) -> None:
        """Let in at once whom the lists of partners and guests name now, instead of a little later."""
        self._follow(self._partners())

    def close(self) -> None:
        """End everything, and give port, socket, threads and connections back; may be called twice."""
        if self._stopping.is_set():
            return
        with self._following:
            self._stopping.set()
        deadline = time.monotonic() + self._options.close_grace
        self._workers.close()
        self._watching.join(self._options.close_grace)
        for correspondence in self._correspondences.values():
            correspondence.stop()
        self._clerk.stir()
        if self._listener is not None:
            self._listener.close(LINGER, deadline)
        for correspondence in self._correspondences.values():
            correspondence.join(max(deadline - time.monotonic(), 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- who may what

    def _objection_to(self, peer: PartyId, job: JobId) -> str | None:
        """Return why there is no stream to ``peer`` for a job, or ``None``."""
        try:
            if peer not in self._partners():
                return f"{peer} is not a partner of {self.party}"
            if not self._admits(peer, job):
                return f"{self.party} does not admit {peer} to job {job}"
        except UnseenError as error:  # by what to judge it cannot be read
            self._complaints.say(peer, f"job {job} with {peer} cannot be judged: {error}")
            return f"{self.party} cannot judge job {job} now"
        return None

    def _objection_under(self, peer: PartyId, certificate_pem: bytes) -> str | None:
        """Return why ``peer`` may do nothing under this certificate, or ``None``."""
        try:
            return self._guard.objection(peer, certificate_pem)
        except UnseenError as error:  # by what to judge it cannot be read
            return str(error)

    def _watch(self) -> None:
        """Follow the list of partners, and end what is not allowed any more."""
        while not self._stopping.is_set():
            with Attempt() as attempt:
                self._follow(self._partners())
            if attempt.error is not None:
                self._complaints.say(self.party, f"partners cannot be followed: {attempt.error}")
            for correspondence in list(self._correspondences.values()):
                correspondence.judge()
            for worker in self._workers.all():
                with Attempt() as attempt:
                    self._judge(worker)
                if worker.overdue or attempt.error is not None:
                    worker.end(words="an error at this node")
                if attempt.error is not None:
                    self._complaints.say(worker.peer, f"job {worker.job} cannot be judged", attempt.error)
            self._stopping.wait(self._options.recheck)

    def _judge(self, worker: Worker) -> None:
        """Refuse to go on with a stream whose certificate or job is not accepted (any more)."""
        peer = worker.peer
        objection = worker.certificate and self._objection_under(peer, worker.certificate)
        objection = objection or self._objection_to(peer, worker.job)
        if objection:
            self._complaints.say(peer, f"{self.party} ends the stream of job {worker.job} to {peer}: {objection}")
            worker.refuse(objection)

    def _follow(self, partners: Mapping[PartyId, str | None]) -> None:
        with self._following:
            if not self._stopping.is_set():
                self._take_up(partners)

    def _take_up(self, partners: Mapping[PartyId, str | None]) -> None:
        if self._listener is not None:
            self._listener.show(self._credentials())
        for peer, correspondence in list(self._correspondences.items()):
            if partners.get(peer) != correspondence.endpoint:
                correspondence.stop()
                del self._correspondences[peer]
        for peer, endpoint in partners.items():
            if endpoint is not None and peer not in self._correspondences:
                self._correspondences[peer] = Correspondence(
                    self._guard,
                    peer,
                    endpoint,
                    clerk=self._clerk,
                    complain=self._complaints.say,
                    wait=self._options.mail_wait,
                )

    # --- as listener

    def _listen(self, listen: str) -> Listener:
        methods = {
            METHOD: grpc.stream_stream_rpc_method_handler(self._serve_stream),
            EXCHANGE: grpc.unary_unary_rpc_method_handler(self._serve_exchange),
            FACTS: grpc.unary_unary_rpc_method_handler(self._serve_facts),
            PAIR: grpc.stream_stream_rpc_method_handler(self._serve_guest),
        }
        return Listener(self.party, listen, methods, self._credentials(), keepalive=self._options.keepalive)

    def _credentials(self) -> Credentials:
        """Return what to show in a handshake, and by whose roots to judge callers: those of today's partners."""
        identity = self._guard.identity
        roots = {identity.authority_of(peer) for peer in self._partners()}
        roots.update(self._guests.roots() if self._guests is not None else ())
        # gRPC needs one; under the own root there is nobody but this node.
        return Credentials(identity.key_pem, identity.certificate_pem, b"".join(sorted(roots)) or identity.ca_pem)

    def _serve_facts(self, request: bytes, context: Any) -> bytes:
        with Quiet(context, self._complaints):
            names, peer = caller(context)
            if peer is None or not self._visits.may(peer) or peer not in self._partners():
                return facts(f"{shown(names)} is not a partner of {self.party}, or calls too often")
            self._pass_lists_on(peer, context)
            return facts(self._objection_under(peer, certificate_of(context)) or "")

    def _serve_guest(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        with Quiet(context, self._complaints):
            names, named = caller(context)
            # All guests are called as this node is, and share what one partner may.
            if named is None or not self._visits.may(named):
                self._turn_away(context, named, f"{shown(names)} calls too often", grpc.StatusCode.RESOURCE_EXHAUSTED)
            told = self._guests.receive(certificate_of(context), requests) if self._guests is not None else None
            if told is None:
                self._turn_away(context, None, f"whoever calls was not invited by {self.party}")
            yield from told

    def _serve_exchange(self, request: bytes, context: Any) -> bytes:
        with Quiet(context, self._complaints):
            peer = self._let_in(context)
            with self._counted(context, peer, EXCHANGE, self._options.exchanges):
                return self._answer(peer, request, context)

    def _answer(self, peer: PartyId, request: bytes, context: Any) -> bytes:
        try:
            heard = self._clerk.hear(peer, request)
        except RemoteProtocolError as error:
            self._turn_away(context, peer, str(error), grpc.StatusCode.INVALID_ARGUMENT)
        if heard.wait > 0:
            context.add_callback(lambda: self._clerk.stir(peer))
            self._clerk.wait(peer, min(heard.wait, self._options.mail_wait), lambda: self._wanted(context))
        return self._clerk.say(peer, letters=heard.wait > 0)

    def _serve_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        with Quiet(context, self._complaints):
            peer = self._let_in(context)
            if not any(key == _JOB for key, _ in context.invocation_metadata()):
                yield refusal(
                    Why.IDENTITY, f"a node listens here, for jobs of nodes: let {peer} run it in its node, too"
                )
                return
            with self._counted(context, peer, METHOD, self._options.streams):
                worker = self._worker_for(peer, self._job_of(peer, context), context)
                worker.join(context.cancel, certificate_of(context))
                if not context.add_callback(worker.end):
                    worker.end()
                self._judge(worker)  # it may have waited for long
                threading.Thread(target=_carry, args=(worker, requests), name=f"carry {peer}", daemon=True).start()
                yield from worker.packets()

    def _worker_for(self, peer: PartyId, job: JobId, context: Any) -> Worker:
        """Return the worker that a stream of ``peer`` is joined with, or end the call."""
        objection = self._objection_to(peer, job)
        if objection is not None:
            self._turn_away(context, peer, objection)
        if self._partners().get(peer) is not None and self.party < peer:
            self._turn_away(context, peer, f"{self.party} dials {peer} itself", grpc.StatusCode.ALREADY_EXISTS)
        worker = self._workers.wait(job, peer, self._options.worker_wait, lambda: self._wanted(context))
        if worker is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"no worker of job {job} has come at {self.party} yet")
            raise AssertionError  # abort raises
        return worker

    def _wanted(self, context: Any) -> bool:
        """Return whether somebody still waits for the answer of a call."""
        return bool(context.is_active()) and not self._stopping.is_set()

    @contextmanager
    def _counted(self, context: Any, peer: PartyId, kind: str, most: int) -> Iterator[None]:
        with self._visits.one(peer, kind, most) as fits:
            if not fits:
                reason = f"{peer} has more than {most} calls of {kind} at once"
                self._turn_away(context, peer, reason, grpc.StatusCode.RESOURCE_EXHAUSTED)
            yield

    def _let_in(self, context: Any) -> PartyId:
        """Return who calls, after an exchange of revocation lists, or end the call."""
        names, peer = caller(context)
        if peer is not None and not self._visits.may(peer):
            self._turn_away(context, peer, f"{peer} calls too often", grpc.StatusCode.RESOURCE_EXHAUSTED)
        if peer is None or peer not in self._partners():
            self._turn_away(context, None, f"{shown(names)} is not a partner of {self.party}")
        self._pass_lists_on(peer, context)
        objection = self._objection_under(peer, certificate_of(context))
        if objection is not None:
            self._turn_away(context, peer, objection)
        return peer

    def _pass_lists_on(self, peer: PartyId, context: Any) -> None:
        """Exchange revocation lists with a caller."""
        self._guard.learn(peer, context.invocation_metadata())
        context.send_initial_metadata(self._guard.own_list())

    def _job_of(self, peer: PartyId, context: Any) -> JobId:
        named = [value for key, value in context.invocation_metadata() if key == _JOB]
        try:
            (job,) = named
            return JobId(job)
        except (ValueError, UsageError):
            self._turn_away(context, peer, f"{peer} named no job", grpc.StatusCode.INVALID_ARGUMENT)

    def _turn_away(
        self, context: Any, peer: PartyId | None, reason: str, code: Any = grpc.StatusCode.PERMISSION_DENIED
    ) -> NoReturn:
        self._complaints.say(peer or "", f"{self.party} turned a call of {peer or context.peer()} away: {reason}")
        context.abort(code, reason)
        raise AssertionError  # abort raises

    # --- as dialer

    def _worker_came(self, worker: Worker) -> None:
        """Dial the worker's peer, unless it is the peer who dials."""
        try:
            endpoint = self._partners().get(worker.peer)
            last = self._dialled_by.get(worker.peer)
            if endpoint is None or (last is not None and time.monotonic() - last < _REMEMBERED):
                return
            if not self._workers.claim(worker):
                return
            why = self._dial_for(worker, endpoint)
        except UnseenError as error:  # by what to judge the peer cannot be read
            why = str(error)
        worker.end(Frame.LATER, why)

    def _dial_for(self, worker: Worker, endpoint: str) -> str:
        """Carry one stream to its end; return why it ended."""
        peer, guard = worker.peer, self._guard
        trusted = guard.trusted_at(endpoint, peer)
        if trusted is None:
            return examine(endpoint, guard.identity, peer).text
        metadata = (*guard.own_list(), (_JOB, worker.job))
        with dialled(endpoint, guard.identity, peer, trusted, self._options.keepalive) as connection:
            try:
                call = connection.stream_stream(f"/{SERVICE}/{METHOD}")(worker.packets(), metadata=metadata)
                worker.join(call.cancel, trusted)
                guard.learn(peer, call.initial_metadata())
                # The list that has just come may revoke the certificate of this very connection.
                self._judge(worker)
                worker.carry(call)
            except grpc.RpcError as error:
                return self._why(worker, error)
        return f"{peer} ended the stream"

    def _why(self, worker: Worker, error: Any) -> str:
        peer, code, details = worker.peer, error.code(), shown(error.details(), limit=500)
        if code is grpc.StatusCode.ALREADY_EXISTS:
            self._dialled_by[peer] = time.monotonic()
        elif code is grpc.StatusCode.PERMISSION_DENIED:
            self._complaints.say(peer, f"{peer} turned the stream of job {worker.job} away: {details}")
        return f"{peer} ended the stream, or the connection broke ({code.name}: {details})"


def _carry(worker: Worker, requests: Iterator[bytes]) -> None:
    with suppress(grpc.RpcError):
        worker.carry(requests)
