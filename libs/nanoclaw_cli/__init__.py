"""The `nanoclaw` command: the whole API for people, and the supervision of the services on one machine."""
