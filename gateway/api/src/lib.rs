//! The door: HTTP for users, agents and the image service. Writes intent, reads state, streams. Decides nothing.
