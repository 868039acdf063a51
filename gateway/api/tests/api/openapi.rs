//! The document: checked in, complete, and every route of it in the authorisation table.

use basalt_api::{authorization::RULES, openapi};
use std::{collections::BTreeSet, path::Path};

fn operations() -> Vec<(String, String, serde_json::Value)> {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let paths = document["paths"].as_object().unwrap().clone();
    let of = |(path, item): (String, serde_json::Value)| {
        let item = item.as_object().unwrap().clone();
        item.into_iter()
            .map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
            .collect::<Vec<_>>()
    };
    paths.into_iter().flat_map(of).collect()
}

#[test]
fn the_checked_in_document_is_the_generated_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let generated = openapi::document_text();
    if std::env::var("BASALT_BLESS").is_ok_and(|v| v == "1") {
        std::fs::write(&file, &generated).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stored == generated,
        "openapi.json differs from the handlers; look at the difference, then run with BASALT_BLESS=1"
    );
}

#[test]
fn s1_every_route_has_its_row_and_every_row_its_route() {
    let routes: BTreeSet<_> = operations().into_iter().map(|(m, p, _)| (m, p)).collect();
    let rows: BTreeSet<_> = RULES.iter().map(|r| (r.method.to_owned(), r.path.to_owned())).collect();
    let without_row: Vec<_> = routes.difference(&rows).collect();
    let without_route: Vec<_> = rows.difference(&routes).collect();
    assert!(
        without_row.is_empty() && without_route.is_empty(),
        "no row: {without_row:?}; no route: {without_route:?}"
    );
}

#[test]
fn every_operation_is_named_once_and_says_how_it_fails() {
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(names.insert(id.clone()), "{id} names two operations");
        assert!(
            operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
            "{method} {path} has no summary"
        );
        let responses = operation["responses"].as_object().unwrap();
        let public = ["/healthz", "/openapi.json"].contains(&path.as_str());
        assert!(public || responses.contains_key("default"), "{method} {path} names no problem");
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap().clone();
    fn walk(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(|r| r.as_str()) {
                    found.insert(name.rsplit('/').next().unwrap().to_owned());
                }
                map.values().for_each(|v| walk(v, found));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(&document, &mut found);
    let missing: Vec<_> = found.iter().filter(|name| !schemas.contains_key(*name)).collect();
    assert!(missing.is_empty() && found.len() > 40, "{missing:?} of {}", found.len());
    assert_eq!(document["openapi"], "3.1.0");
}

/// Whether a schema says what it is: more than "an object" or "anything".
fn says_something(schema: &serde_json::Value) -> bool {
    let Some(map) = schema.as_object() else { return false };
    let parts = ["$ref", "properties", "additionalProperties", "oneOf", "anyOf", "allOf", "enum", "const"];
    let plain = ["string", "integer", "number", "boolean", "null"];
    match map.get("type") {
        _ if parts.iter().any(|part| map.contains_key(*part)) => true,
        Some(serde_json::Value::String(kind)) if kind == "array" => {
            map.get("items").is_some_and(says_something)
        }
        Some(serde_json::Value::String(kind)) => plain.contains(&kind.as_str()),
        // `["string", "null"]`: what may be left out.
        Some(serde_json::Value::Array(kinds)) => kinds.iter().all(|k| {
            k.as_str() == Some("array") && map.get("items").is_some_and(says_something)
                || k.as_str().is_some_and(|k| plain.contains(&k))
        }),
        _ => false,
    }
}

#[test]
fn every_body_is_described_down_to_its_fields_at_both_doors() {
    // The document itself, and what is kept for users without being looked into.
    const OPEN: [&str; 2] = ["/openapi.json GET response 200", "WatchEvent.object"];
    let mut vague = Vec::new();
    let mut look = |at: String, schema: &serde_json::Value| {
        if !says_something(schema) && !OPEN.contains(&at.as_str()) {
            vague.push(format!("{at}: {schema}"));
        }
    };
    for (method, path, operation) in operations() {
        let bodies = operation["responses"].as_object().unwrap().iter();
        let bodies =
            bodies.map(|(status, body)| (format!("{path} {method} response {status}"), body.clone()));
        let request = operation.get("requestBody").map(|b| (format!("{path} {method} request"), b.clone()));
        for (at, body) in bodies.chain(request) {
            for content in body["content"].as_object().into_iter().flatten().map(|c| c.1) {
                look(at.clone(), &content["schema"]);
            }
        }
    }
    let document = serde_json::to_value(openapi::document()).unwrap();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        look(name.clone(), schema);
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            look(format!("{name}.{field}"), schema);
        }
    }
    assert!(vague.is_empty(), "{}", vague.join("\n"));
}

/// A manifest as agents get it is one that the document allows: its fields are the schema's, item by item.
#[test]
fn the_checked_in_manifest_has_the_fields_that_the_document_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/tests/golden/manifest.json");
    let manifest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let document = serde_json::to_value(openapi::document()).unwrap();
    let schemas = document["components"]["schemas"].clone();
    fn names(schemas: &serde_json::Value, schema: &serde_json::Value, into: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            names(schemas, &schemas[name.rsplit('/').next().unwrap()], into);
        }
        into.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
        for part in ["allOf", "oneOf"] {
            schema[part].as_array().into_iter().flatten().for_each(|s| names(schemas, s, into));
        }
    }
    let fields = |name: &str| {
        let mut found = BTreeSet::new();
        names(&schemas, &schemas[name], &mut found);
        found
    };
    let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&manifest), fields("Manifest"));
    let mut kinds = BTreeSet::new();
    for item in manifest["items"].as_array().unwrap() {
        assert!(keys(item).is_subset(&fields("Item")), "{item}");
        let desired = keys(&item["desired"]);
        assert!(desired.is_subset(&fields("Desired")), "{desired:?} of {:?}", fields("Desired"));
        kinds.insert(item["desired"]["as"].as_str().unwrap().to_owned());
    }
    assert!(kinds.len() >= 4, "{kinds:?}");
}
