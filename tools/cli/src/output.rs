//! Tables, JSON and YAML.

use crate::{Failure, kinds::Kind};
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;
use std::io::{self, Write};

/// `print!` for a command line: see [`write`].
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::write(format_args!($($arg)*)) };
}
/// `println!` for a command line: see [`write`].
macro_rules! sayln {
    ($($arg:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use {say, sayln};

/// Writes to standard output. When its reader has gone (`basalt get vms | head -1`) there is nobody left to tell
/// anything: the command ends as quietly as any other, which `print!` would not do.
pub fn write(text: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            eprintln!("error: standard output cannot be written: {e}");
            std::process::exit(1);
        }
        Ok(()) => {}
    }
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON as the gateway sends it.
    Json,
    /// The same as YAML.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// Prints one object or a list.
pub fn print(kind: &Kind, items: &[Value], single: bool, format: Format) -> Result<(), Failure> {
    let whole =
        || if single { items.first().cloned().unwrap_or(Value::Null) } else { Value::from(items.to_vec()) };
    match format {
        Format::Json => sayln!("{}", serde_json::to_string_pretty(&whole())?),
        Format::Yaml => say!("{}", yaml(&whole())?),
        Format::Name => {
            for item in items {
                let name = item.pointer("/name").or(item.pointer("/id")).and_then(Value::as_str);
                sayln!("{}/{}", kind.name, name.unwrap_or("-"));
            }
        }
        Format::Table => sayln!("{}", table(kind, items)),
    }
    Ok(())
}

/// A value as YAML.
pub fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::Other(e.to_string()))?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn table(kind: &Kind, items: &[Value]) -> Table {
    let now = chrono::Utc::now();
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(kind.columns.iter().map(|(title, _)| *title));
    for item in items {
        table.add_row(kind.columns.iter().map(|(title, at)| crate::kinds::cell(item, title, at, now)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}
