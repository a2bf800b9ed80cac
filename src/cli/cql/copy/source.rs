//! Rows of a CSV file, as batches to write.

use std::fs::File;
use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::{Options, value};
use crate::client::{CqlColumn, CqlRow};

/// A row of the file.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Which row of the file it is, from 1.
    pub(super) number: u64,
    /// Its values as they were written.
    pub(super) fields: csv::StringRecord,
    /// The same as bytes.
    pub(super) row: CqlRow,
}

/// A row that is not written, and why.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) number: u64,
    pub(super) fields: csv::StringRecord,
    pub(super) why: String,
}

/// The rows of a file.
pub(super) struct Source {
    rows: csv::Reader<Box<dyn Read>>,
    columns: Vec<CqlColumn>,
    /// For each column its place in the file.
    places: Vec<usize>,
    /// Values that a row has.
    width: usize,
    null: String,
    left: u64,
    /// Rows read.
    count: u64,
}

impl Source {
    /// Opens a file (`None`: the standard input), plain or compressed with gzip.
    pub(super) fn open(
        file: Option<&str>,
        columns: Vec<CqlColumn>,
        options: &Options,
    ) -> Result<Self, String> {
        let inside: Box<dyn Read> = match file {
            None => Box::new(std::io::stdin()),
            Some(path) => {
                let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
                let gzip = std::path::Path::new(path).extension().is_some_and(|end| end == "gz");
                if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) }
            }
        };
        let mut rows = csv::ReaderBuilder::new()
            .has_headers(options.header)
            .flexible(true)
            .delimiter(options.delimiter)
            .escape(options.escape)
            .buffer_capacity(1 << 16)
            .from_reader(inside);
        let mut places: Vec<usize> = (0..columns.len()).collect();
        let mut width = columns.len();
        if options.header {
            let head = rows.headers().map_err(|error| error.to_string())?.clone();
            // A file may name its columns in another order, and have more of them.
            let find = |column: &CqlColumn| {
                let same = |name: &str| name.trim().eq_ignore_ascii_case(&column.name);
                let exact = head.iter().position(|name| name.trim() == column.name);
                exact.or_else(|| head.iter().position(same)).ok_or_else(|| {
                    let names: Vec<&str> = head.iter().collect();
                    format!("the file has no column {}: it has {}", column.name, names.join(", "))
                })
            };
            places = columns.iter().map(find).collect::<Result<_, _>>()?;
            width = head.len();
        }
        let left = options.rows.unwrap_or(u64::MAX);
        let null = options.null.clone();
        let mut source = Self { rows, columns, places, width, null, left, count: 0 };
        for _ in 0..options.skip {
            if !source.skip()? {
                break;
            }
        }
        Ok(source)
    }

    /// The line that names the columns, if there is one.
    pub(super) fn head(&mut self) -> Option<csv::StringRecord> {
        self.rows.has_headers().then(|| self.rows.headers().ok().cloned()).flatten()
    }

    fn skip(&mut self) -> Result<bool, String> {
        self.count += 1;
        let mut record = csv::ByteRecord::new();
        self.rows.read_byte_record(&mut record).map_err(|error| error.to_string())
    }

    /// Bytes read so far, of the rows as they are uncompressed.
    pub(super) fn position(&self) -> u64 {
        self.rows.position().byte()
    }

    /// The next `most` rows, fewer at the end, and those in between that are none.
    pub(super) fn next_batch(&mut self, most: usize) -> Result<(Vec<Line>, Vec<Refused>), String> {
        let (mut lines, mut refused) = (Vec::new(), Vec::new());
        while lines.len() < most && refused.len() < most && self.left > 0 {
            let mut bytes = csv::ByteRecord::new();
            match self.rows.read_byte_record(&mut bytes) {
                Ok(true) => {}
                Ok(false) => self.left = 0,
                Err(error) => return Err(error.to_string()),
            }
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.count += 1;
            let number = self.count;
            let text = |bytes: &csv::ByteRecord| {
                bytes.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect()
            };
            let fields = match csv::StringRecord::from_byte_record(bytes) {
                Ok(fields) => fields,
                Err(error) => {
                    let fields = text(&error.into_byte_record());
                    refused.push(Refused { number, fields, why: "not UTF-8".to_owned() });
                    continue;
                }
            };
            match self.row(&fields) {
                Ok(row) => lines.push(Line { number, fields, row }),
                Err(why) => refused.push(Refused { number, fields, why }),
            }
        }
        Ok((lines, refused))
    }

    fn row(&self, fields: &csv::StringRecord) -> Result<CqlRow, String> {
        // A comma that should have been in quotes moves all that comes after it.
        if fields.len() != self.width {
            return Err(format!("{} values where {} are needed", fields.len(), self.width));
        }
        let mut row = Vec::with_capacity(self.columns.len());
        for (column, place) in self.columns.iter().zip(&self.places) {
            let field = fields.get(*place).unwrap_or_default();
            if field == self.null {
                row.push(None);
                continue;
            }
            let bytes = value::bytes(&column.kind, field);
            row.push(Some(bytes.map_err(|why| format!("{}: {why}", column.name))?));
        }
        Ok(row)
    }
}
