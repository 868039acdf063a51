-- json, not jsonb: bodies are written once and passed on to agents as they are, whole manifests at a time.
ALTER TABLE manifest_items ALTER COLUMN body TYPE json USING body::json;
