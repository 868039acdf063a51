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
