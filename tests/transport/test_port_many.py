"""Many partners at one port at the same time; ``benchmarks.port`` does the same with 1,000 and a whole node."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import EXCHANGE, FACTS, SERVICE

import grpc  # isort: skip

import json
import resource

import pytest

from unseen.codec import decode, encode_bytes
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.partners import PARTNERS_FILE, Partner, Partners
from unseen.transport.facts import Facts
from unseen.transport.listener import most_connections
from unseen.transport.mail import Exchange, Letter
from unseen.transport.tls import host_name, issue, make_authority

HUB = PartyId("hub")
COUNT = 100


def test_a_hundred_partners_with_roots_of_their_own_write_and_wait_at_the_same_time(tmp_path, now, new_site):
    node, identities = Node.create(tmp_path / "hub", HUB, None, now), {}
    for number in range(COUNT):
        name = PartyId(f"partner-{number}")
        root = make_authority(f"Unseen node {name}", days=1, now=now, party=name)
        identities[name] = issue(root, name, days=1, now=now)
    listed = {
        name: Partner(root=one.ca_pem.decode(), endpoint=None, since=now).model_dump(mode="json")
        for name, one in identities.items()
    }
    (tmp_path / "hub" / PARTNERS_FILE).write_text(json.dumps({"partners": listed}))
    site = new_site(HUB, node.identity(), tmp_path / "run", node.partners.endpoints)
    site.letters.patience = 5.0
    connections = [connected(identity, node, site.port.port) for identity in identities.values()]

    facts = [one.unary_unary(f"/{SERVICE}/{FACTS}").future(b"", timeout=30) for one in connections]
    assert {decode(Facts, found.result(), sender=HUB).objection for found in facts} == {""}
    brought = [exchange(one, Exchange(0, (Letter(1, b"hello"),), 0.0, "")) for one in connections]
    assert {answer_of(call).received for call in brought} == {1}
    assert site.letters.taken == {name: [b"hello"] for name in identities}

    waiting = [exchange(one, Exchange(0, (), 30.0, "")) for one in connections]
    for name in identities:
        site.letters.post(name, f"to {name}".encode())
    heard = [answer_of(call) for call in waiting]
    read = [[bytes(letter.body) for letter in answer.letters] for answer in heard]
    assert read == [[f"to {name}".encode()] for name in identities]
    for one in connections:
        one.close()


def connected(identity, node, port):
    credentials = grpc.ssl_channel_credentials(node.identity().ca_pem, identity.key_pem, identity.certificate_pem)
    options = [("grpc.ssl_target_name_override", host_name(HUB)), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)


def exchange(connection, said):
    return connection.unary_unary(f"/{SERVICE}/{EXCHANGE}").future(encode_bytes(said), timeout=60)


def answer_of(call):
    return decode(Exchange, call.result(), sender=HUB)


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [
        (1024, 1 << 20, 12_288),
        (1024, 4096, 3072),
        (1024, 1024, 768),
        (64, 64, 48),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 12_288),
        (1024, resource.RLIM_INFINITY, 12_288),
        (1 << 20, 1 << 20, 12_288),
    ],
)
def test_connections_leave_a_quarter_of_the_files_to_all_else(monkeypatch, soft, hard, connections):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: asked[-1] if asked else (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert most_connections() == connections
    now_soft, now_hard = asked[-1] if asked else (soft, hard)
    assert now_hard == hard, "what an administrator set stays"
    assert now_soft == resource.RLIM_INFINITY or now_soft >= max(soft, connections)


def test_a_partner_list_that_was_read_is_read_anew_when_another_process_changes_it(tmp_path, now):
    node = Node.create(tmp_path / "hub", HUB, None, now)
    root = make_authority("x", days=1, now=now, party=PartyId("bank")).certificate_pem
    here, there = node.partners, Partners(tmp_path / "hub")
    assert dict(here.endpoints()) == {}
    there.add(PartyId("bank"), root, None, now)
    for _ in range(3):
        assert dict(here.endpoints()) == {"bank": None}
        there.strike(PartyId("bank"), now)
        assert dict(here.endpoints()) == dict(here.roots()) == {}
        there.add(PartyId("bank"), root, None, now)
