//! What recorded things come to.
