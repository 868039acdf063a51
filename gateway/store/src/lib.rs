//! The truth: schema, SQL, tenant isolation, change feed. The only crate that speaks SQL.
