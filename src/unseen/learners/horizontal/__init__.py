"""Learning over rows that are spread over many clients: they hold the same columns of different people."""
