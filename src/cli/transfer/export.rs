//! `henge export`.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and runtime"
)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::progress::{Progress, grouped, rate};
use super::rows::{Format, Record};
use crate::cli::args::{ClientArgs, ReadArgs, bytes_of};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::client::{
    Client, FoundValue, KeyEntry, ListOptions, ReadOptions, Sibling, encode_text, key_text,
    text_bytes,
};

/// Arguments of `henge export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The bucket.
    pub bucket: String,
    /// Where to write; without it, stdout.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// records: everything, siblings included; ndjson and csv: values that are JSON objects.
    #[arg(long, value_enum, default_value = "records")]
    pub format: Format,
    /// The columns of a CSV file; without it, the members of the first value.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub columns: Vec<String>,
    /// Only keys that begin so.
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Reads under way at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Remember in this file how far the export has come: the same command again goes on there.
    #[arg(long, value_name = "FILE", requires = "output")]
    pub resume_file: Option<PathBuf>,
    /// Go on trying for so long where too few replicas answer.
    #[arg(long, value_name = "TIME", default_value = "60s",
          value_parser = crate::cli::args::duration)]
    pub patience: std::time::Duration,
}

/// How far an export has come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    bucket: String,
    cursor: Option<String>,
    /// Bytes of the output that belong to what is before the cursor.
    length: u64,
    columns: Vec<String>,
    rows: u64,
}

/// `henge export`.
pub async fn export(client: &ClientArgs, args: ExportArgs) -> Result<(), Failure> {
    let json = client.json;
    let client = client.client()?.with_patience(args.patience);
    let place = open_place(&args)?;
    let before = place.rows;
    let mut out = Output::open(&args, place)?;
    let mut progress = Progress::new("export", None);
    let ended = tokio::select! {
        biased;
        result = run(&client, &args, &mut out, &mut progress) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    progress.end();
    ended?;
    if let Some(path) = &args.resume_file {
        drop(std::fs::remove_file(path));
    }
    let rows = out.place.rows;
    let speed = rate(rows - before, progress.elapsed());
    if json && args.output.is_some() {
        output::json(&serde_json::json!({
            "rows": rows, "left_out": out.left_out, "rows_per_s": speed,
        }))?;
    } else {
        output::note(format!("exported {} rows, {} rows/s", grouped(rows), grouped(speed)));
    }
    if out.left_out == 0 {
        return Ok(());
    }
    let count = grouped(out.left_out);
    let message =
        format!("{count} keys were left out (see above): --format records takes everything");
    Err(Failure::new(Exit::Partial, message))
}

async fn run(
    client: &Client,
    args: &ExportArgs,
    out: &mut Output,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut options = ListOptions {
        prefix: args.prefix.clone().map(bytes_of),
        start: out.place.cursor.clone(),
        limit: Some(1_000),
        conflicts: false,
    };
    let read = args.read.options();
    let failed = |error| Failure::read(&error);
    loop {
        let page = client.list(&args.bucket, &options).await.map_err(failed)?;
        let mut values = stream::iter(&page.keys)
            .map(|entry| fetch(client, &args.bucket, entry, &read))
            .buffered(args.concurrency as usize);
        while let Some(record) = values.next().await {
            if let Some(record) = record? {
                out.write(&record)?;
            }
        }
        options.start.clone_from(&page.next);
        out.page_done(page.next, args.resume_file.as_deref())?;
        progress.show(out.place.rows, 0, "");
        if options.start.is_none() {
            return Ok(());
        }
    }
}

/// A key with its values; `None` if it was deleted since it was listed.
async fn fetch(
    client: &Client,
    bucket: &str,
    entry: &KeyEntry,
    read: &ReadOptions,
) -> Result<Option<Record>, Failure> {
    let key = entry.bytes().unwrap_or_default();
    let found = client.get(bucket, &key, read).await.map_err(|error| Failure::read(&error))?;
    let values = match found.value {
        FoundValue::Absent => return Ok(None),
        FoundValue::Siblings(siblings) => siblings,
        FoundValue::One(stored) => {
            let (value, encoding) = encode_text(&stored.value);
            let (content_type, etag) = (stored.content_type, stored.etag);
            let dot = stored.dot.map_or(Value::Null, Value::from);
            vec![Sibling { value, encoding, content_type, etag, dot }]
        }
    };
    let (key, key_encoding) = encode_text(&key);
    Ok(Some(Record { key, key_encoding, values }))
}

fn open_place(args: &ExportArgs) -> Result<Place, Failure> {
    let fresh = Place { bucket: args.bucket.clone(), ..Place::default() };
    let Some(path) = &args.resume_file else { return Ok(fresh) };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(fresh),
        Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
    };
    let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let place: Place = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if place.bucket != args.bucket {
        return Err(wrong(format!("it belongs to an export of {}", place.bucket)));
    }
    Ok(place)
}

/// Where rows go.
struct Output {
    file: BufWriter<Box<dyn Sink>>,
    format: Format,
    place: Place,
    left_out: u64,
}

/// A file, or stdout.
trait Sink: Write {
    fn position(&mut self) -> std::io::Result<u64>;
}

impl Sink for File {
    fn position(&mut self) -> std::io::Result<u64> {
        self.sync_data()?;
        self.stream_position()
    }
}

impl Sink for std::io::Stdout {
    fn position(&mut self) -> std::io::Result<u64> {
        Ok(0)
    }
}

impl Output {
    fn open(args: &ExportArgs, mut place: Place) -> Result<Self, Failure> {
        let sink: Box<dyn Sink> = match &args.output {
            None => Box::new(std::io::stdout()),
            Some(path) => {
                let wrong = |error| Failure::usage(format!("{}: {error}", path.display()));
                let mut options = OpenOptions::new();
                let mut file =
                    options.write(true).create(true).truncate(false).open(path).map_err(wrong)?;
                // What was written after the last remembered page is written again.
                file.set_len(place.length).map_err(wrong)?;
                file.seek(SeekFrom::Start(place.length)).map_err(wrong)?;
                Box::new(file)
            }
        };
        if place.columns.is_empty() {
            place.columns.clone_from(&args.columns);
        }
        let mut out = Self { file: BufWriter::new(sink), format: args.format, place, left_out: 0 };
        if args.format == Format::Csv && !out.place.columns.is_empty() && out.place.length == 0 {
            out.csv_head()?;
        }
        Ok(out)
    }

    fn write(&mut self, record: &Record) -> Result<(), Failure> {
        match self.format {
            Format::Records => {
                serde_json::to_writer(&mut self.file, record).map_err(std::io::Error::from)?;
                self.file.write_all(b"\n")?;
            }
            Format::Ndjson | Format::Csv => {
                let Some(object) = object_of(record) else {
                    self.left_out += 1;
                    let key = text_bytes(&record.key, record.key_encoding).unwrap_or_default();
                    output::note(format!("left out: {}: not one JSON object", key_text(&key)));
                    return Ok(());
                };
                self.write_object(&object, &record.values[0].value)?;
            }
        }
        self.place.rows += 1;
        Ok(())
    }

    fn write_object(&mut self, object: &Value, text: &str) -> Result<(), Failure> {
        if self.format == Format::Ndjson {
            // The value as it was stored, unless it spans lines.
            if text.contains('\n') {
                writeln!(self.file, "{object}")?;
            } else {
                writeln!(self.file, "{text}")?;
            }
            return Ok(());
        }
        if self.place.columns.is_empty() {
            self.place.columns =
                object.as_object().into_iter().flatten().map(|m| m.0.clone()).collect();
            self.csv_head()?;
        }
        let fields: Vec<String> = self
            .place
            .columns
            .iter()
            .map(|name| match object.get(name) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            })
            .collect();
        self.csv_line(&fields)
    }

    fn csv_head(&mut self) -> Result<(), Failure> {
        let columns = self.place.columns.clone();
        self.csv_line(&columns)
    }

    fn csv_line(&mut self, fields: &[String]) -> Result<(), Failure> {
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, error.to_string());
        writer.write_record(fields).map_err(|error| failed(&error))?;
        let line = writer.into_inner().map_err(|error| failed(&error))?;
        self.file.write_all(&line)?;
        Ok(())
    }

    /// Everything before `cursor` is written.
    fn page_done(&mut self, cursor: Option<String>, path: Option<&Path>) -> Result<(), Failure> {
        self.file.flush()?;
        let Some(path) = path else { return Ok(()) };
        self.place.length = self.file.get_mut().position()?;
        self.place.cursor = cursor;
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&self.place).map_err(std::io::Error::from)?)?;
        std::fs::rename(beside, path)?;
        Ok(())
    }
}

/// The JSON object that is the record's only value.
fn object_of(record: &Record) -> Option<Value> {
    let [value] = &record.values[..] else { return None };
    let bytes = text_bytes(&value.value, value.encoding)?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}
