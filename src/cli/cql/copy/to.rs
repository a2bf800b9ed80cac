//! COPY TO: the ring in as many parts as there are connections, each read page by page.

use std::cell::RefCell;
use std::io::Write;

use super::Copy;
use super::from::{Copied, is_final, pause};
use crate::cli::cql::nodes::Nodes;
use crate::cli::transfer::progress::{Progress, grouped, rate};
use crate::client::{CqlAnswer, CqlAsk, CqlColumn, CqlFailure, CqlPage};
use crate::cql::types::quote;
use crate::cql::value;

struct Work<'a> {
    out: RefCell<csv::Writer<Box<dyn Write>>>,
    progress: RefCell<Progress>,
    rows: RefCell<u64>,
    nodes: &'a Nodes,
    copy: &'a Copy,
    level: u16,
}

/// Copies `keyspace.table`, whose `columns` these are and whose partition key is `key`, to a file.
///
/// # Errors
/// Why the file is not whole.
pub async fn run(
    nodes: &Nodes,
    keyspace: &str,
    copy: &Copy,
    columns: &[CqlColumn],
    key: &[String],
    level: u16,
) -> Result<Copied, String> {
    let inside: Box<dyn Write> = match &copy.file {
        None => Box::new(std::io::stdout()),
        Some(path) => {
            Box::new(std::fs::File::create(path).map_err(|error| format!("{path}: {error}"))?)
        }
    };
    let mut builder = csv::WriterBuilder::new();
    builder.delimiter(copy.options.delimiter);
    if let Some(escape) = copy.options.escape {
        builder.double_quote(false).escape(escape);
    }
    let mut out = builder.from_writer(inside);
    if copy.options.header {
        let names = columns.iter().map(|column| column.name.as_str());
        out.write_record(names).map_err(|error| error.to_string())?;
    }
    let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
    let table = format!("{}.{}", quote(keyspace), quote(&copy.table));
    let select = format!("SELECT {} FROM {table}", names.join(", "));
    let key: Vec<String> = key.iter().map(|name| quote(name)).collect();
    let work = Work {
        out: RefCell::new(out),
        progress: RefCell::new(Progress::new("copying", None)),
        rows: RefCell::new(0),
        nodes,
        copy,
        level,
    };
    // With a bound on the rows their order matters: one after the other.
    let parts = if copy.options.rows.is_some() { 1 } else { copy.options.parallel };
    let selects = ranges(parts).into_iter().map(|part| match part {
        (None, None) => select.clone(),
        (from, to) => {
            let token = format!("token({})", key.join(", "));
            let from = from.map(|from| format!("{token} > {from}"));
            let to = to.map(|to| format!("{token} <= {to}"));
            let both: Vec<String> = from.into_iter().chain(to).collect();
            format!("{select} WHERE {}", both.join(" AND "))
        }
    });
    let workers = selects.enumerate().map(|(at, select)| read(&work, at, select));
    futures_util::future::try_join_all(workers).await?;
    work.out.borrow_mut().flush().map_err(|error| error.to_string())?;
    work.progress.borrow().end();
    let (rows, time) = (*work.rows.borrow(), work.progress.borrow().elapsed());
    crate::cli::output::note(format!(
        "{} rows read in {:.1} s ({}/s)",
        grouped(rows),
        time.as_secs_f64(),
        grouped(rate(rows, time))
    ));
    Ok(Copied { rows, refused: 0 })
}

/// A part of the ring: after this token, up to and with that one.
type Range = (Option<i64>, Option<i64>);

/// The ring in `parts` equal parts.
fn ranges(parts: usize) -> Vec<Range> {
    let parts = parts.max(1) as i128;
    let cut = |at: i128| {
        let token = i128::from(i64::MIN) + (1i128 << 64) * at / parts;
        (0 < at && at < parts).then_some(token as i64)
    };
    (0..parts).map(|at| (cut(at), cut(at + 1))).collect()
}

/// Reads one part, page by page; a page that did not come is asked for again, at another node.
async fn read(work: &Work<'_>, mut at: usize, select: String) -> Result<(), String> {
    let options = &work.copy.options;
    let mut connection = None;
    let mut state: Option<Vec<u8>> = None;
    let mut attempt = 0;
    loop {
        let asked = async {
            let open = match connection.take() {
                Some(open) => open,
                None => work.nodes.open(at).await?,
            };
            let ask = CqlAsk {
                text: &select,
                level: work.level,
                serial: 8,
                page_size: Some(options.page),
                paging_state: state.as_deref(),
                trace: false,
                receipt: false,
            };
            let reply = connection.insert(open).ask(ask).await?;
            Ok::<_, CqlFailure>(reply)
        };
        match asked.await {
            Ok(reply) => {
                let CqlAnswer::Page(page) = reply.answer else {
                    return Err("a SELECT is answered without rows".to_owned());
                };
                attempt = 0;
                let more = work.write(&page)?;
                state = page.paging_state;
                if state.is_none() || !more {
                    return Ok(());
                }
            }
            Err(CqlFailure::Refused { code, message }) if is_final(code) => return Err(message),
            Err(failure) => {
                attempt += 1;
                if attempt >= options.attempts {
                    return Err(format!("given up after {attempt} attempts: {failure}"));
                }
                (connection, at) = (None, at + 1);
                pause(attempt).await;
            }
        }
    }
}

impl Work<'_> {
    /// Writes a page; false if there are rows enough.
    fn write(&self, page: &CqlPage) -> Result<bool, String> {
        let mut out = self.out.borrow_mut();
        let mut rows = self.rows.borrow_mut();
        for row in &page.rows {
            if self.copy.options.rows.is_some_and(|most| *rows >= most) {
                return Ok(false);
            }
            for (column, cell) in page.columns.iter().zip(row) {
                let field = match cell {
                    Some(bytes) => value::text(&column.kind, bytes),
                    None => self.copy.options.null.clone(),
                };
                out.write_field(field).map_err(|error| error.to_string())?;
            }
            out.write_record(None::<&[u8]>).map_err(|error| error.to_string())?;
            *rows += 1;
        }
        self.progress.borrow_mut().show(*rows, 0, "");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_ring_join_and_leave_nothing_out() {
        assert_eq!(ranges(1), [(None, None)]);
        for parts in [2, 3, 8, 255] {
            let all = ranges(parts);
            assert_eq!(all.len(), parts);
            assert_eq!((all[0].0, all[parts - 1].1), (None, None));
            assert!(all.windows(2).all(|two| two[0].1 == two[1].0 && two[0].1.is_some()));
            assert!(all.windows(2).all(|two| two[0].1 < two[1].1 || two[1].1.is_none()));
        }
    }
}
