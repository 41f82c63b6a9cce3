"""The model relay: the messages API on a unix socket of each attempt; how an agent thinks without a network."""
