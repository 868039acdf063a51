//! How a process boots, logs, listens, serves TLS, drains and stops. Knows no noun.
