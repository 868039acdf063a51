//! What a command writes: tables, JSON and YAML on standard output, everything else on standard error.

use crate::{Failure, cells::cell, kinds::Kind};
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use std::{
    io::{self, Write},
    time::Duration,
};

/// `print!` for a command line: see [`write`].
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::write(format_args!($($arg)*)) };
}
/// `println!` for a command line: see [`write`].
macro_rules! sayln {
    ($($arg:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($arg)*))) };
}
/// `eprintln!` for a command line: nobody reads it, nobody minds.
macro_rules! note {
    ($($arg:tt)*) => {{
        use std::io::Write;
        // Whoever closed standard error wants to hear nothing.
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use {note, say, sayln};

/// How often a command that prints for as long as it lives looks whether somebody still reads.
const GLANCE: Duration = Duration::from_millis(200);

/// Writes to standard output. When its reader has gone (`basalt get vms | head -1`) there is nobody left to tell
/// anything: the command ends as quietly as any other, which `print!` would not do.
pub fn write(text: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_fmt(text).and_then(|()| out.flush()) {
        end(&e);
    }
}

fn end(e: &io::Error) -> ! {
    if e.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    note!("error: standard output cannot be written: {e}");
    std::process::exit(1);
}

/// Resolves when nobody reads standard output any more: a watch that has nothing to write would not notice.
pub async fn reader_left() {
    loop {
        let out = io::stdout();
        let mut fds = [PollFd::new(&out, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let asked = poll(&mut fds, Some(&now));
        if asked.is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return;
        }
        tokio::time::sleep(GLANCE).await;
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
    /// `kind/name`, one a line.
    Name,
}

/// Prints one object or a list.
pub fn print(kind: &Kind, items: &[Value], single: bool, format: Format) -> Result<(), Failure> {
    let whole =
        || if single { items.first().cloned().unwrap_or(Value::Null) } else { Value::from(items.to_vec()) };
    match format {
        Format::Json | Format::Yaml => print_value(&whole(), format)?,
        Format::Name => items.iter().for_each(|item| sayln!("{}", kind.label(item))),
        Format::Table => sayln!("{}", table(kind, items)),
    }
    Ok(())
}

/// Prints a value as YAML if that is asked for, else as JSON.
pub fn print_value(value: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Yaml => say!("{}", yaml(value)?),
        _ => sayln!("{}", serde_json::to_string_pretty(value)?),
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
        table.add_row(kind.columns.iter().map(|(title, at)| cell(item, title, at, now)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}
