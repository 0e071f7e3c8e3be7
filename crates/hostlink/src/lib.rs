//! `AgentApi` over mutual TLS: the client, the server side, and a faithful host in memory.
