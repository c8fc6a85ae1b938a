"""Links between parties: the channel port, an in-process network, mutual TLS over gRPC, and the session above them."""
