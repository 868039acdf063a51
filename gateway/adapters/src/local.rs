//! A container engine (Docker or Podman) through its Docker-compatible socket.
