"""What runs inside a container: the file client, the reference agents, the MCP server; no gRPC, no database.

Importing the package loads nothing: a small agent's start-up time is mostly imports. Take what you need from
`nanoclaw_agent.client`, `.prompt`, `.session`, `.environment`.
"""
