//! The will: feed to krt graph to plan, then write back.
