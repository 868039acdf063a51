//! What the adapter and the bridge (`basalt-mcp-bridge`) agree on.

/// Where the bridge stands in a container.
pub(super) const INSIDE: &str = "/basalt-mcp-bridge";
/// The port it listens on in a container with a network of its own; it obeys `PORT`.
pub(super) const PORT: u16 = 8080;
/// Where it speaks the protocol.
pub(super) const PATH: &str = "/mcp";
/// Where it says whether it is well.
pub(super) const HEALTH: &str = "/healthz";
