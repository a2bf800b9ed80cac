//! `get`, `put`, `del`, `ls`.

use std::io::{IsTerminal, Read, Write};

use serde_json::json;

use super::args::{ClientArgs, DelArgs, GetArgs, LsArgs, PutArgs, bytes_of};
use super::exit::{Exit, Failure};
use super::output;
use crate::client::{
    Found, FoundValue, ListOptions, OpMode, Sibling, Written, encode_text, key_text, text_bytes,
};

/// Values larger than this are not read from a file or stdin: no node takes them.
const MAX_VALUE_BYTES: u64 = 64 << 20;

/// `henge get`.
pub async fn get(client: &ClientArgs, args: GetArgs) -> Result<(), Failure> {
    let mut options = args.read.options();
    options.local = args.local;
    options.receipt = args.verbose;
    let key = bytes_of(args.key);
    let found = client
        .client()?
        .get(&args.bucket, &key, &options)
        .await
        .map_err(|error| Failure::read(&error))?;
    if args.verbose && !client.json {
        show_context(found.context.as_deref(), found.receipt.as_deref());
    }
    if client.json {
        return found_json(&found);
    }
    match &found.value {
        FoundValue::Absent => {
            let shown = format!("{}/{}", args.bucket, key_text(&key));
            Err(Failure::new(Exit::NotFound, format!("there is no value at {shown}")))
        }
        FoundValue::One(stored) => {
            if args.verbose {
                show("etag", stored.etag.as_deref());
                show("dot", stored.dot.as_deref());
                show("content-type", stored.content_type.as_deref());
            }
            raw(&stored.value)
        }
        FoundValue::Siblings(siblings) => match args.sibling {
            Some(number) => one_sibling(siblings, number),
            None => all_siblings(siblings),
        },
    }
}

/// Value bytes as they are; a line end is added for a terminal only.
fn raw(value: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(value)?;
    if stdout.is_terminal() && !value.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()?;
    Ok(())
}

fn one_sibling(siblings: &[Sibling], number: usize) -> Result<(), Failure> {
    let sibling = number.checked_sub(1).and_then(|index| siblings.get(index));
    let bytes = sibling.and_then(|sibling| text_bytes(&sibling.value, sibling.encoding));
    match bytes {
        Some(bytes) => raw(&bytes),
        None => Err(Failure::usage(format!("--sibling: choose 1 to {}", siblings.len()))),
    }
}

fn all_siblings(siblings: &[Sibling]) -> Result<(), Failure> {
    for (index, sibling) in siblings.iter().enumerate() {
        let etag = sibling.etag.as_deref().unwrap_or("-");
        let encoding = match sibling.encoding {
            crate::client::Encoding::Utf8 => "",
            crate::client::Encoding::Base64 => " (base64)",
        };
        output::line(format!("--- sibling {} of {}, {etag}{encoding}", index + 1, siblings.len()))?;
        output::line(&sibling.value)?;
    }
    Err(Failure {
        hint: Some(
            "print one with --sibling N; to resolve: henge get -v shows the context, \
             henge put --context CONTEXT writes over all of them",
        ),
        ..Failure::new(Exit::Siblings, format!("{} concurrent values", siblings.len()))
    })
}

fn found_json(found: &Found) -> Result<(), Failure> {
    let receipt: Option<serde_json::Value> =
        found.receipt.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let (mut document, exit) = match &found.value {
        FoundValue::Absent => (json!({ "found": false }), Some(Exit::NotFound)),
        FoundValue::One(stored) => {
            let (value, encoding) = encode_text(&stored.value);
            let document = json!({
                "found": true, "value": value, "encoding": encoding,
                "content_type": stored.content_type, "etag": stored.etag, "dot": stored.dot,
            });
            (document, None)
        }
        FoundValue::Siblings(siblings) => {
            (json!({ "found": true, "siblings": siblings }), Some(Exit::Siblings))
        }
    };
    document["context"] = json!(found.context);
    if let Some(receipt) = receipt {
        document["receipt"] = receipt;
    }
    output::json(&document)?;
    exit.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

fn show(name: &str, value: Option<&str>) {
    if let Some(value) = value {
        output::note(format!("{name}: {value}"));
    }
}

fn show_context(context: Option<&str>, receipt: Option<&str>) {
    show("context", context);
    show("receipt", receipt);
}

/// `henge put`.
pub async fn put(client: &ClientArgs, args: PutArgs) -> Result<(), Failure> {
    let mut options = args.write.options();
    options.context = args.context;
    options.fence = args.fence;
    options.ttl = args.ttl;
    options.content_type = args.content_type;
    options.receipt = args.verbose;
    if let Some(text) = &args.op_id {
        let op = text.parse().map_err(|error| Failure::usage(format!("--op-id: {error}")))?;
        options.op = OpMode::Given(op);
    }
    let value = match (args.value, args.file) {
        (Some(value), _) => bytes_of(value),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(&path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            read_value(file)?
        }
        (None, _) => read_value(std::io::stdin().lock())?,
    };
    let key = bytes_of(args.key);
    let written = client
        .client()?
        .put(&args.bucket, &key, value, &options)
        .await
        .map_err(|error| Failure::write(&error))?;
    if client.json {
        return written_json(&written);
    }
    if args.verbose {
        show("etag", written.etag.as_deref());
        show_context(written.context.as_deref(), written.receipt.as_deref());
    }
    output::line(match (written.replayed, written.created) {
        (true, _) => "done before, under the same operation id",
        (false, true) => "created",
        (false, false) => "written",
    })?;
    if let Some(count) = written.siblings.filter(|count| *count > 1) {
        output::note(format!(
            "the key now has {count} concurrent values: a write replaces only what its --context \
             has seen (henge get -v)"
        ));
    }
    Ok(())
}

fn read_value(from: impl Read) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    from.take(MAX_VALUE_BYTES + 1).read_to_end(&mut value)?;
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failure::usage(format!("a value has at most {MAX_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

fn written_json(written: &Written) -> Result<(), Failure> {
    let receipt: Option<serde_json::Value> =
        written.receipt.as_deref().and_then(|text| serde_json::from_str(text).ok());
    output::json(&json!({
        "created": written.created, "etag": written.etag, "context": written.context,
        "siblings": written.siblings, "replayed": written.replayed, "receipt": receipt,
    }))
}

/// `henge del`.
pub async fn del(client: &ClientArgs, args: DelArgs) -> Result<(), Failure> {
    let mut options = args.write.options();
    options.context = args.context;
    options.fence = args.fence;
    let written = client
        .client()?
        .delete(&args.bucket, &bytes_of(args.key), &options)
        .await
        .map_err(|error| Failure::write(&error))?;
    if client.json { written_json(&written) } else { output::line("deleted") }
}

/// `henge ls`.
pub async fn ls(client: &ClientArgs, args: LsArgs) -> Result<(), Failure> {
    const PAGE: u64 = 1_000;
    let json = client.json;
    let client = client.client()?;
    let mut options = ListOptions {
        prefix: args.prefix.map(bytes_of),
        start: args.start,
        conflicts: args.conflicts,
        limit: None,
    };
    let mut left = if args.all { u64::MAX } else { args.limit };
    while left > 0 {
        options.limit = u32::try_from(left.min(PAGE)).ok();
        let page =
            client.list(&args.bucket, &options).await.map_err(|error| Failure::read(&error))?;
        for entry in &page.keys {
            if json {
                let text = serde_json::to_string(entry).map_err(std::io::Error::from)?;
                output::line(text)?;
                continue;
            }
            let key = entry.bytes().map(|bytes| key_text(&bytes)).unwrap_or_default();
            if entry.siblings > 1 {
                output::line(format!("{key}\t({} values)", entry.siblings))?;
            } else {
                output::line(key)?;
            }
        }
        left = left.saturating_sub(page.keys.len() as u64);
        options.start = page.next;
        if options.start.is_none() {
            return Ok(());
        }
    }
    if let Some(cursor) = options.start {
        output::note(format!("there is more: --all, or --start {cursor}"));
    }
    Ok(())
}
