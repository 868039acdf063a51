//! Component 2, one per host: observe, plan, act, report. Never sees the database.
