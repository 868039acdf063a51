//! The nouns: ids, names, quantities, states, specs. No IO, no async, no clock.
