//! Incremental collections: declare inputs, derive collections, recompute exactly what a change touches.
