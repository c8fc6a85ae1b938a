"""Tables whose rows lie at different clients: exact sums over clients, and quantiles by counting."""
