//! Tables as `ovs-vsctl --format=json` prints them (RFC 7047, section 5.1: values, sets and maps).

use crate::Error;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One printed table.
#[derive(Debug, Deserialize)]
pub struct Table {
    headings: Vec<String>,
    data: Vec<Vec<Value>>,
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    headings: &'a [String],
    cells: &'a [Value],
}

impl Table {
    /// Reads the tables that one run printed, one after another.
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, Error> {
        serde_json::Deserializer::from_slice(bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|e| Error::host("reading ovs-vsctl's answer", e))
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.data.iter().map(|cells| Row { headings: &self.headings, cells })
    }
}

impl<'a> Row<'a> {
    fn cell(&self, column: &str) -> Option<&'a Value> {
        let at = self.headings.iter().position(|h| h == column)?;
        self.cells.get(at)
    }

    /// A text; `None` when the column is empty.
    pub fn text(&self, column: &str) -> Option<&'a str> {
        self.set(column).into_iter().next().and_then(Value::as_str)
    }

    /// A number; `None` when the column is empty.
    pub fn number(&self, column: &str) -> Option<i64> {
        self.set(column).into_iter().next().and_then(Value::as_i64)
    }

    /// A column that is the row's own id.
    pub fn uuid(&self, column: &str) -> Option<&'a str> {
        uuid_of(self.cell(column)?)
    }

    /// Ids of other rows.
    pub fn uuids(&self, column: &str) -> Vec<&'a str> {
        self.set(column).into_iter().filter_map(uuid_of).collect()
    }

    /// The members of a column: a single value stands for a set of one.
    pub fn set(&self, column: &str) -> Vec<&'a Value> {
        match self.cell(column) {
            None => Vec::new(),
            Some(cell) => match tagged(cell) {
                Some(("set", Value::Array(members))) => members.iter().collect(),
                _ => vec![cell],
            },
        }
    }

    /// A map of texts.
    pub fn map(&self, column: &str) -> BTreeMap<String, String> {
        let Some(("map", Value::Array(pairs))) = self.cell(column).and_then(tagged) else {
            return BTreeMap::new();
        };
        let pair = |p: &Value| Some((p.get(0)?.as_str()?.to_owned(), p.get(1)?.as_str()?.to_owned()));
        pairs.iter().filter_map(pair).collect()
    }
}

fn tagged(cell: &Value) -> Option<(&str, &Value)> {
    Some((cell.get(0)?.as_str()?, cell.get(1)?))
}

fn uuid_of(cell: &Value) -> Option<&str> {
    match tagged(cell) {
        Some(("uuid", id)) => id.as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_maps_and_single_values_are_told_apart() {
        let printed = br#"{"headings":["_uuid","name","ports","ids","ofport","error"],
            "data":[[["uuid","u1"],"br",["set",[["uuid","a"],["uuid","b"]]],["map",[["k","v"]]],5,["set",[]]]]}
            {"headings":["name"],"data":[]}"#;
        let tables = Table::read_all(printed).unwrap();
        assert_eq!(tables.len(), 2);
        let row = tables[0].rows().next().unwrap();
        assert_eq!(
            (row.uuid("_uuid"), row.text("name"), row.number("ofport")),
            (Some("u1"), Some("br"), Some(5))
        );
        assert_eq!((row.text("error"), row.uuids("ports")), (None, vec!["a", "b"]));
        assert_eq!(row.map("ids"), BTreeMap::from([("k".to_owned(), "v".to_owned())]));
    }
}
