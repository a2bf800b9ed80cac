//! The rows of a file: CSV, NDJSON or exported records, plain or gzipped.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real runtime"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tokio::sync::mpsc;

use super::template::Template;
use crate::cli::exit::Failure;
use crate::client::{Encoding, Sibling, text_bytes};

/// Rows that wait between the reader and the workers.
const QUEUE: usize = 512;

/// The longest line of NDJSON: a value of 64 MiB in base64, and some.
const MAX_LINE: u64 = 96 << 20;

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line of column names, then a row a line; the value is the row as a JSON object.
    Csv,
    /// A JSON object a line; the value is the line.
    Ndjson,
    /// What `henge export` writes: key, value (any bytes), type and siblings.
    Records,
}

/// Which file, and what its keys are.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// The file; `.gz` is unpacked on the way.
    pub file: PathBuf,
    /// The bucket.
    #[arg(long, short)]
    pub bucket: String,
    /// The file's form; without it, by its name.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// How a row's key is made, such as '{carrier}/{flight}'.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "key_columns")]
    pub key_template: Option<String>,
    /// The columns that make a row's key, joined by '/'.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub key_columns: Vec<String>,
    /// Requests under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Only this many rows, from the start.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Give a row up when it met no living replicas for so long.
    #[arg(long, value_name = "TIME", default_value = "60s",
          value_parser = crate::cli::args::duration)]
    pub patience: std::time::Duration,
}

impl FileArgs {
    /// The form of the file.
    pub fn format(&self) -> Result<Format, Failure> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let name = self.file.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("csv") => Ok(Format::Csv),
            Some("ndjson" | "jsonl") => Ok(Format::Ndjson),
            Some("records") => Ok(Format::Records),
            _ => Err(Failure::usage("name the form of the file: --format csv|ndjson|records")),
        }
    }

    /// How keys are made.
    pub fn template(&self) -> Result<Option<Template>, Failure> {
        let template = match (&self.key_template, self.key_columns.is_empty()) {
            (Some(text), _) => Template::parse(text),
            (None, false) => Template::of_columns(self.key_columns.iter().map(String::as_str)),
            (None, true) if self.format()? == Format::Records => return Ok(None),
            (None, true) => {
                Err("say what the keys are: --key-columns a,b or --key-template '{a}/{b}'".into())
            }
        };
        template.map(Some).map_err(Failure::usage)
    }
}

/// One value to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The value's type.
    pub content_type: Option<String>,
}

/// A row with its place; or why it cannot be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Its number, from 0.
    pub number: u64,
    /// The row, or what is wrong with it.
    pub row: Result<Row, String>,
}

/// A file that is being read.
#[derive(Debug)]
pub struct Rows {
    /// Its rows, in order; an error ends them.
    pub rows: mpsc::Receiver<Result<Numbered, String>>,
    /// Bytes of the file (packed, if it is) read so far.
    pub position: Arc<AtomicU64>,
    /// Bytes of the file.
    pub length: u64,
}

/// Starts to read the file, skipping the first `skip` rows.
pub fn open(args: &FileArgs, skip: u64) -> Result<Rows, Failure> {
    let format = args.format()?;
    let template = args.template()?;
    let (reader, position, length) = open_file(&args.file)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?;
    let (sender, rows) = mpsc::channel(QUEUE);
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut out = Sink { sender, next: 0, skip, limit };
    let work = move || {
        let done = match (format, template) {
            (Format::Csv, Some(template)) => read_csv(reader, &template, &mut out),
            (Format::Ndjson, Some(template)) => {
                read_lines(reader, &mut out, |line| vec![ndjson_row(line, &template)])
            }
            (_, _) => read_lines(reader, &mut out, record_rows),
        };
        if let Err(Stop::Failed(message)) = done {
            drop(out.sender.blocking_send(Err(message)));
        }
    };
    drop(tokio::task::spawn_blocking(work));
    Ok(Rows { rows, position, length })
}

struct Counting {
    file: File,
    position: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

type Opened = (Box<dyn BufRead + Send>, Arc<AtomicU64>, u64);

fn open_file(path: &Path) -> std::io::Result<Opened> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let position = Arc::new(AtomicU64::new(0));
    let counting = Counting { file, position: position.clone() };
    let packed = path.extension().is_some_and(|end| end == "gz");
    let reader: Box<dyn BufRead + Send> = if packed {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(counting)))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, counting))
    };
    Ok((reader, position, length))
}

/// Why reading ended early.
enum Stop {
    /// Enough was read, or nobody wants more.
    Enough,
    /// The file cannot be read on.
    Failed(String),
}

struct Sink {
    sender: mpsc::Sender<Result<Numbered, String>>,
    next: u64,
    skip: u64,
    limit: u64,
}

impl Sink {
    fn push(&mut self, row: Result<Row, String>) -> Result<(), Stop> {
        let number = self.next;
        if number >= self.limit {
            return Err(Stop::Enough);
        }
        self.next += 1;
        if number < self.skip {
            return Ok(());
        }
        self.sender.blocking_send(Ok(Numbered { number, row })).map_err(|_| Stop::Enough)
    }
}

fn read_csv(
    reader: Box<dyn BufRead + Send>,
    template: &Template,
    out: &mut Sink,
) -> Result<(), Stop> {
    let failed = |error: csv::Error| Stop::Failed(error.to_string());
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let heads: Vec<String> = reader.headers().map_err(failed)?.iter().map(str::to_owned).collect();
    for column in template.columns() {
        if !heads.iter().any(|head| head == column) {
            return Err(Stop::Failed(format!(
                "the file has no column {column:?}; it has {}",
                heads.join(", ")
            )));
        }
    }
    // The names as JSON strings, made once.
    let names: Vec<String> =
        heads.iter().map(|head| Value::from(head.as_str()).to_string()).collect();
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(failed)? {
        out.push(csv_row(&record, &heads, &names, template))?;
    }
    Ok(())
}

fn csv_row(
    record: &csv::ByteRecord,
    heads: &[String],
    names: &[String],
    template: &Template,
) -> Result<Row, String> {
    let record = csv::StringRecord::from_byte_record(record.clone())
        .map_err(|error| format!("the row is not UTF-8: {error}"))?;
    if record.len() != heads.len() {
        return Err(format!("the row has {} fields, the head has {}", record.len(), heads.len()));
    }
    let key = template.key(|name| {
        heads.iter().position(|head| head == name).and_then(|index| record.get(index))
    })?;
    let mut value = Vec::with_capacity(record.as_slice().len() + 16 * heads.len());
    for (index, (name, field)) in names.iter().zip(&record).enumerate() {
        value.extend_from_slice(if index == 0 { b"{" } else { b"," });
        value.extend_from_slice(name.as_bytes());
        value.push(b':');
        serde_json::to_writer(&mut value, field).map_err(|error| error.to_string())?;
    }
    value.push(b'}');
    Ok(Row { key: key.into(), value: value.into(), content_type: Some("application/json".into()) })
}

fn read_lines(
    mut reader: Box<dyn BufRead + Send>,
    out: &mut Sink,
    parse: impl Fn(&[u8]) -> Vec<Result<Row, String>>,
) -> Result<(), Stop> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| Stop::Failed(error.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        if count as u64 == MAX_LINE {
            return Err(Stop::Failed(format!("a line is longer than {MAX_LINE} bytes")));
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        for row in parse(text) {
            out.push(row)?;
        }
    }
}

fn ndjson_row(line: &[u8], template: &Template) -> Result<Row, String> {
    let object: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let key = template.key(|name| match object.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    })?;
    Ok(Row {
        key: key.into(),
        value: Bytes::copy_from_slice(line),
        content_type: Some("application/json".into()),
    })
}

/// A line of `henge export`.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The key, as `key_encoding` says.
    pub key: String,
    /// How the key is written.
    #[serde(default)]
    pub key_encoding: Encoding,
    /// Its live values: one, or several siblings.
    pub values: Vec<Sibling>,
}

fn record_rows(line: &[u8]) -> Vec<Result<Row, String>> {
    let record: Record = match serde_json::from_slice(line) {
        Ok(record) => record,
        Err(error) => return vec![Err(format!("no exported record: {error}"))],
    };
    let bad = || "no valid base64".to_owned();
    record
        .values
        .into_iter()
        .map(|sibling| {
            Ok(Row {
                key: text_bytes(&record.key, record.key_encoding).ok_or_else(bad)?,
                value: text_bytes(&sibling.value, sibling.encoding).ok_or_else(bad)?,
                content_type: sibling.content_type,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
